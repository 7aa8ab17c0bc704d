"""YAML to data: scalars, lines, and bounds for hostile text."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milpa_ray.api.document import MAX_DEPTH, MAX_TEXT, Map, line_of, parse_documents, plain_scalar


def value_of(text: str) -> object:
    parsed = parse_documents(text)
    assert parsed.problems == []
    assert len(parsed.documents) == 1
    return parsed.documents[0].value


def problem_of(text: str) -> tuple[int, str]:
    problems = parse_documents(text).problems
    assert len(problems) == 1
    return problems[0].line, problems[0].reason


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("on", "on"),
        ("12", 12),
        ("-3", -3),
        ("0x10", 16),
        ("0o17", 15),
        ("012345678901", "012345678901"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("1e999", "1e999"),
        (".inf", ".inf"),
        ("2024-01-31", "2024-01-31"),
        ("1.0.3", "1.0.3"),
        ("99999999999999999999", "99999999999999999999"),
    ],
)
def test_plain_scalars(text: str, value: object) -> None:
    found = plain_scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_quoted_scalars_are_text() -> None:
    assert value_of("""{a: "12", b: 'true', c: !!str 5, d: !!int "7", e: !!binary "YQ =="}""") == {
        "a": "12",
        "b": "true",
        "c": "5",
        "d": 7,
        "e": "YQ==",
    }


def test_keys_are_always_text() -> None:
    assert value_of("{1: a, true: b, null: c}") == {"1": "a", "true": "b", "null": "c"}


def test_lines_of_keys_items_and_missing_fields() -> None:
    value = value_of("a:\n  b:\n  - x\n  - c: 1\n    d: 2\n")
    assert line_of(value, ("a", "b", 0), 1) == 3
    assert line_of(value, ("a", "b", 1, "d"), 1) == 5
    assert line_of(value, ("a", "b", 1, "missing"), 1) == 4
    assert line_of(value, ("a", "added", "b", 1), 1) == 4


def test_several_documents_and_empty_ones() -> None:
    parsed = parse_documents("---\n---\na: 1\n---\n# nothing\n---\nb: 2\n")
    assert [(d.value, d.line, d.number) for d in parsed.documents] == [({"a": 1}, 3, 2), ({"b": 2}, 7, 4)]


def test_json_is_yaml() -> None:
    assert value_of('{\n\t"a": [1, 2.5, null, true],\n\t"b": {"c": "d\\u00e9\\n"}\n}') == {
        "a": [1, 2.5, None, True],
        "b": {"c": "dé\n"},
    }


def test_json_escapes_that_yaml_lacks() -> None:
    assert value_of('{"a": "\\ud83d\\ude00"}') == {"a": "😀"}


def test_aliases_and_merge_keys() -> None:
    value = value_of("base: &b {x: 1, y: 2}\nmade: {<<: *b, y: 3}\nlist: {<<: [{z: 1}, *b]}\nsame: *b\n")
    assert isinstance(value, Map)
    assert value["made"] == {"x": 1, "y": 3}
    assert value["list"] == {"z": 1, "x": 1, "y": 2}
    assert value["same"] == {"x": 1, "y": 2}


def test_duplicate_keys_are_found_at_every_level() -> None:
    problems = parse_documents("a: 1\nb: {c: 1, c: 2}\na: 3\n").problems
    assert [(p.line, p.path) for p in problems] == [(2, ("b", "c")), (3, ("a",))]
    assert "given on line 1 already" in problems[1].reason


def test_a_syntax_error_keeps_the_documents_before_it() -> None:
    parsed = parse_documents("a: 1\n---\nb: [\n")
    assert [d.value for d in parsed.documents] == [{"a": 1}]
    assert [(p.document, p.reason.split(":")[0]) for p in parsed.problems] == [(2, "YAML syntax error")]


def test_a_tab_is_named() -> None:
    line, reason = problem_of("a:\n  b: 1\n\tc: 2\n")
    assert line == 3
    assert "begins with a tab" in reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: *nowhere", "names no anchor"),
        ("a: &x [*x]", "inside of what it repeats"),
        ("a: !!python/object:os.system {}", "not supported"),
        ("a: !Ref b", "tag !Ref is not supported"),
        ("a: !!int b", "does not go with its tag"),
        ("? [a, b]\n: c", "a key must be text"),
        ("a: {<<: 1}", "merge key"),
        ("a: \x01", "not readable as YAML"),
        ("a: \ud800", "not readable as YAML"),
    ],
)
def test_what_cannot_be_read_is_one_clear_problem(text: str, reason: str) -> None:
    assert reason in problem_of(text)[1]


def test_alias_bombs_are_refused_at_once() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
    began = time.monotonic()
    assert "aliases repeat more than" in problem_of(bomb)[1]
    assert time.monotonic() - began < 5


def test_merge_bombs_are_refused_at_once() -> None:
    bomb = "a0: &a0 {k: v}\n" + "".join(
        f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}], k{i}: *a{i - 1}}}\n" for i in range(1, 60)
    )
    assert "aliases repeat more than" in problem_of(bomb)[1]


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000, "? " * 1000])
def test_deep_nesting_is_refused(text: str) -> None:
    assert len(parse_documents(text).problems) == 1


def test_the_deepest_allowed_nesting_is_read() -> None:
    assert parse_documents("[" * MAX_DEPTH + "]" * MAX_DEPTH).problems == []
    assert "nested deeper" in problem_of("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2))[1]


def test_too_long_a_text_is_refused_unread() -> None:
    assert "split it" in problem_of("#" * (MAX_TEXT + 1))[1]


yaml_like = st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"#%,?\n\t 1~.<"), max_size=60)


@given(st.one_of(st.text(max_size=100), yaml_like))
def test_any_text_gives_documents_or_problems(text: str) -> None:
    parsed = parse_documents(text)
    assert all(p.line >= 1 and p.reason for p in parsed.problems)
