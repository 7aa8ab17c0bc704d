"""Label selectors: every form, Kubernetes' meaning of absent keys, and errors that show the forms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milpa_ray.api.network import LabelSelector, SelectorOperator, SelectorRequirement
from milpa_ray.api.selectors import Requirement, Selector, SelectorError, compile_selector, parse_selector

QA = {"env": "qa", "app": "writer"}
DEV = {"env": "dev", "app": "reader"}
BARE: dict[str, str] = {}


@pytest.mark.parametrize(
    ("text", "matching"),
    [
        ("", [QA, DEV, BARE]),
        ("  ", [QA, DEV, BARE]),
        ("env=qa", [QA]),
        ("env==qa", [QA]),
        ("env = qa", [QA]),
        ("env!=qa", [DEV, BARE]),
        ("env in (qa)", [QA]),
        ("env in (dev, qa)", [QA, DEV]),
        ("env in(dev,qa)", [QA, DEV]),
        ("env notin (qa, prod)", [DEV, BARE]),
        ("env", [QA, DEV]),
        ("!env", [BARE]),
        ("! env", [BARE]),
        ("env in (dev, qa), app=writer", [QA]),
        ("env,app!=writer", [DEV]),
        ("env=qa,env=dev", []),
        ("env=", []),
        ("in=notin", []),
    ],
)
def test_matches(text: str, matching: list[dict[str, str]]) -> None:
    selector = parse_selector(text)
    assert [labels for labels in (QA, DEV, BARE) if selector.matches(labels)] == matching


def test_empty_values_match_empty_labels() -> None:
    assert parse_selector("env=").matches({"env": ""})
    assert parse_selector("env in (,a)").matches({"env": ""})
    assert not parse_selector("env=").matches({})


def test_keys_with_a_prefix() -> None:
    assert parse_selector("example.com/role=db").matches({"example.com/role": "db"})


@pytest.mark.parametrize(
    "text",
    [
        "=a",
        "a=b=c",
        "a in",
        "a in b",
        "a in (b",
        "a in (b c)",
        "a b",
        ",",
        "a,",
        "a,,b",
        "!",
        "!a=b",
        "a)",
        "a=(b)",
        "a<1",
    ],
)
def test_bad_text_is_refused_clearly(text: str) -> None:
    with pytest.raises(SelectorError) as caught:
        parse_selector(text)
    assert "label" in str(caught.value)


def test_the_error_says_what_was_found_and_what_is_possible() -> None:
    with pytest.raises(SelectorError, match=r"'a b': found 'b' where an operator .* is needed; write 'key=value'"):
        parse_selector("a b")


def test_bad_keys_and_values_are_named() -> None:
    with pytest.raises(SelectorError, match="label key '-a'"):
        parse_selector("-a=b")
    with pytest.raises(SelectorError, match="value of label 'a'"):
        parse_selector("a=-b")


def test_hostile_lengths_are_refused() -> None:
    with pytest.raises(SelectorError, match="longer than"):
        parse_selector("a," * 100_000)


def test_label_selector_of_a_manifest() -> None:
    selector = compile_selector(
        LabelSelector(
            match_labels={"app": "writer"},
            match_expressions=(
                SelectorRequirement(key="env", operator=SelectorOperator.IN, values=("qa", "dev")),
                SelectorRequirement(key="old", operator=SelectorOperator.DOES_NOT_EXIST),
            ),
        )
    )
    assert selector.matches(QA)
    assert not selector.matches(QA | {"old": ""})
    assert not selector.matches(DEV)


@pytest.mark.parametrize(
    ("operator", "values"),
    [(SelectorOperator.IN, ()), (SelectorOperator.NOT_IN, ()), (SelectorOperator.EXISTS, ("a",))],
)
def test_operators_and_values_must_go_together(operator: SelectorOperator, values: tuple[str, ...]) -> None:
    expression = SelectorRequirement(key="a", operator=operator, values=values)
    with pytest.raises(SelectorError, match=str(operator)):
        compile_selector(LabelSelector(match_expressions=(expression,)))


names = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,8}[a-z0-9])?", fullmatch=True)
values = st.one_of(st.just(""), names)
with_values = st.builds(
    Requirement,
    names,
    st.sampled_from([SelectorOperator.IN, SelectorOperator.NOT_IN]),
    st.frozensets(values, min_size=1, max_size=3),
)
without_values = st.builds(
    Requirement, names, st.sampled_from([SelectorOperator.EXISTS, SelectorOperator.DOES_NOT_EXIST])
)


@given(st.lists(st.one_of(with_values, without_values), max_size=4).map(tuple))
def test_a_selector_s_text_parses_to_it(requirements: tuple[Requirement, ...]) -> None:
    selector = Selector(requirements)
    assert parse_selector(str(selector)) == selector


@given(st.text(alphabet="ab=!,() in\tnotin-./", max_size=30), st.dictionaries(names, values, max_size=3))
def test_any_text_is_a_selector_or_a_clear_error(text: str, labels: dict[str, str]) -> None:
    try:
        selector = parse_selector(text)
    except SelectorError:
        return
    assert selector.matches(labels) in (True, False)
