"""Keys: epochs, what is refused, and that no key is ever shown."""

from __future__ import annotations

import base64
import pickle

import pytest
from tests.people import key_values, keyring, rotated

from mongo_ops.erasure.keys import PURPOSES, KeyMissingError, Keyring, renewed, variable

SECRET = base64.b64encode(b"k" * 32).decode()
OTHER = base64.b64encode(b"o" * 32).decode()


def read(value, purpose="subject"):
    return Keyring.from_lookup({variable(purpose): value}.get)


def test_the_newest_key_comes_first_and_older_ones_stay():
    ring = read(f"7:{SECRET}, 3:{OTHER}")

    assert [key.epoch for key in ring.all("subject")] == [7, 3]
    assert ring.newest("subject").secret == b"k" * 32
    assert ring.of_epoch("subject", 3).secret == b"o" * 32


def test_the_environment_is_read_as_airflow_names_its_variables(monkeypatch):
    for purpose in PURPOSES:
        monkeypatch.delenv(f"AIRFLOW_VAR_MONGO_OPS_KEY_{purpose.upper()}", raising=False)
    monkeypatch.setenv("AIRFLOW_VAR_MONGO_OPS_KEY_VAULT", f"1:{SECRET}")

    ring = Keyring.from_environment()

    assert ring.newest("vault").secret == b"k" * 32
    with pytest.raises(KeyMissingError, match=r"AIRFLOW_VAR_MONGO_OPS_KEY_SUBJECT.*mongo-ops erase keys"):
        ring.newest("subject")


@pytest.mark.parametrize(
    "value",
    [
        SECRET,
        f"x:{SECRET}",
        f"0:{SECRET}",
        f"-1:{SECRET}",
        f"²:{SECRET}",
        "1:",
        "1:not base64!",
        "1:" + base64.b64encode(b"k" * 31).decode(),
        "1:" + base64.b64encode(b"k" * 33).decode(),
        f"1:{SECRET},1:{OTHER}",
        f"1:{SECRET},2:{OTHER}",
        f"2:{SECRET},1:{SECRET}",
        f"1:{SECRET},",
        f"{2**31}:{SECRET}",
    ],
)
def test_what_is_no_key_is_refused_with_the_variables_name_and_without_the_value(value):
    with pytest.raises(KeyMissingError, match=r"mongo_ops_key_subject.*mongo-ops erase keys") as seen:
        read(value)
    assert seen.value.exit_code == 3
    assert SECRET not in str(seen.value)
    assert OTHER not in str(seen.value)


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_key_stops_only_who_needs_it(value):
    ring = Keyring.from_lookup({variable("vault"): f"1:{SECRET}", variable("subject"): value}.get)

    assert ring.newest("vault").epoch == 1
    with pytest.raises(KeyMissingError, match="mongo_ops_key_subject"):
        ring.all("subject")


def test_a_destroyed_epoch_is_named():
    with pytest.raises(KeyMissingError, match=r"no key of epoch 1\b"):
        read(f"2:{SECRET}").of_epoch("subject", 1)


def test_two_purposes_never_share_a_key():
    values = {variable("subject"): f"1:{SECRET}", variable("tombstone"): f"4:{SECRET}"}
    with pytest.raises(KeyMissingError, match=r"mongo_ops_key_tombstone shares a key with mongo_ops_key_subject"):
        Keyring.from_lookup(values.get)


def test_no_key_shows_in_what_is_printed():
    ring = read(f"1:{SECRET}")
    assert SECRET not in repr(ring) + str(ring) + repr(ring.newest("subject"))
    assert "kkk" not in repr(ring) + repr(ring.newest("subject"))


def test_renewing_keeps_the_old_keys_and_makes_a_new_one_every_time():
    values = key_values()
    newer, other = rotated(values), rotated(values)

    assert keyring(newer).all("vault")[1:] == keyring(values).all("vault")
    assert [key.epoch for key in keyring(newer).all("vault")] == [2, 1]
    assert newer != other
    with pytest.raises(KeyMissingError):
        renewed("vault", "broken")


def test_check_values_tell_keys_apart_and_do_not_hold_them():
    values = key_values(2)
    checks = keyring(values).checks()

    assert sorted(checks) == sorted(f"{purpose}.{epoch}" for purpose in PURPOSES for epoch in (1, 2))
    assert len(set(checks.values())) == 8
    assert keyring(values).checks() == checks
    assert all(len(check) == 16 for check in checks.values())
    assert pickle.loads(pickle.dumps(keyring(values))).checks() == checks  # goes to worker processes
