"""docs/asyncapi.yaml against the code and the golden payloads."""

from __future__ import annotations

import json
import re

import msgspec
import pytest
import yaml

from edge_agent import wire
from edge_agent.downlink import Downlink

STRUCTS = [wire.Batch, wire.Ack, wire.State, wire.Meta, wire.Command, wire.Response]
SCHEMAS = {
    "telemetry.json": "Batch",
    "events.json": "Batch",
    "passages.json": "Batch",
    "backfill.plain.json": "Backfill",
    "ack.json": "Ack",
    "state.online.json": "State",
    "state.lost.json": "State",
    "state.offline.json": "State",
    "meta.json": "Meta",
    "command.json": "Command",
    "response.json": "Response",
    "now.json": "Now",
}


@pytest.fixture(scope="module")
def document(root):
    return yaml.safe_load((root / "docs" / "asyncapi.yaml").read_text())


def test_the_schemas_are_those_of_the_code(document):
    _, schemas = msgspec.json.schema_components(STRUCTS, ref_template="#/components/schemas/{name}")
    written = document["components"]["schemas"]
    assert {name: written.get(name) for name in schemas} == json.loads(json.dumps(schemas))


def test_every_reference_leads_somewhere(document):
    for reference in set(re.findall(r"'#/([^']+)'", repr(document))):
        place = document
        for part in reference.split("/"):
            place = place[part]


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_golden_payload_fits_its_schema(document, root, name):
    import jsonschema

    schema = {"$ref": f"#/components/schemas/{SCHEMAS[name]}", "components": document["components"]}
    payload = json.loads((root / "tests" / "data" / "wire" / "v1" / name).read_bytes())
    jsonschema.Draft202012Validator(schema).validate(payload)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate([payload])


def test_every_topic_stands_in_both_documents(document, root):
    text = (root / "docs" / "wire.md").read_text()
    for channel in document["channels"].values():
        subject = channel["address"].split("/")[2:]
        assert subject[1].strip("{}") in text


def test_what_a_gateway_hears_stands_in_the_page_and_settings_are_only_reserved(root):
    text = (root / "docs" / "wire.md").read_text()
    told = dict(re.findall(r"^\| `gwc/v1/([^`]+)` \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE))
    reserved = {topic for topic, content in told.items() if content.startswith("reserved")}
    heard = Downlink("house-001", "0720400", lambda _: None, None).subscriptions()
    assert reserved == {"{id}/config"}
    assert {re.sub(r"{(name)}", "+", topic) for topic in told.keys() - reserved} == {
        topic.removeprefix("gwc/v1/").replace("house-001", "{id}").replace("0720400", "{area}") for topic in heard
    }


def test_every_key_of_meta_is_named_in_the_page(root):
    row = next(line for line in (root / "docs" / "wire.md").read_text().splitlines() if "/meta`" in line)
    assert all(re.search(rf"\b{name}\b", row) for name in wire.Meta.__struct_fields__ if name not in ("v", "gateway"))
