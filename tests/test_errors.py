"""What is logged of nested errors is their cause."""

from milpa_ray.errors import StoreUnavailable, first_cause


def test_the_first_cause_lies_at_the_bottom_of_nested_groups() -> None:
    cause = StoreUnavailable("etcd is away")
    nested = ExceptionGroup("outer", [ExceptionGroup("inner", [cause, ValueError("later")]), KeyError("other")])
    assert first_cause(nested) is cause
