"""`mongo-ops export` and then `mongo-ops erase run`: the export is about a person, is found where it was written, and loses them."""

from __future__ import annotations

import json

from tests.mongo.test_erasure_cli import ann, include, migrated, person, project, receive, run  # noqa: F401 - fixtures

from mongo_ops.storage import open_folder
from mongo_ops.transfer import manifest


def test_an_export_by_the_command_line_is_named_found_and_cleaned(project, run, ann, tmp_path):  # noqa: F811
    person(project, "bob@example.org")
    places = {name: tmp_path / name for name in ("all", "hers")}
    hers = ("--collection", "users", "--where", json.dumps({"_id": {"$oid": str(ann)}}))
    assert run("export", str(places["all"]), "--format", "jsonl", "--collection", "users")[0] == 0
    assert run("export", str(places["hers"]), *hers)[0] == 0
    request = receive(run, ann)
    reference = project.ops_erasure_requests.find_one({"_id": request})["subject_ref"]
    told = {name: manifest.read(open_folder(place.as_uri())).collection("users") for name, place in places.items()}
    assert (told["all"].subjects, told["hers"].subjects) == ([], [reference])

    code, value, _ = run("erase run", request)

    assert (code, value["states"]) == (0, {"completed": 1})
    told = {name: manifest.read(open_folder(place.as_uri())).collection("users") for name, place in places.items()}
    assert {name: (one.content.count, one.subjects) for name, one in told.items()} == {"all": (1, []), "hers": (0, [])}
    text = b"".join(one.read_bytes() for place in places.values() for one in place.rglob("*.*"))
    assert (str(ann).encode() in text, b"ann@example.org" in text, b"bob@example.org" in text) == (False, False, True)
