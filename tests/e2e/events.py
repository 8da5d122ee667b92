"""Makes JobRun events of every framing, spelling and outcome."""
import json
import re
import uuid

import model

FRAMINGS = ("bare", "wrapped", "wrapped-snake", "ce-binary", "ce-structured", "confluent", "outbox")


def run(sink="absent", status="SUCCESS", **more):
    """A run as a dictionary, camelCase."""
    one = {
        "id": str(uuid.uuid4()), "startTime": "2024-01-01T00:00:00Z", "endTime": "2024-01-01T00:30:00Z",
        "workspaceId": "workspace-1", "projectId": "project-1", "jobId": "job-123e4567",
        "createdAt": "2024-01-01T00:00:00Z", "updatedAt": "2024-01-01T00:30:00.123Z", "type": "SCHEDULED",
        "status": status, "payloads": 100, "successfulRuns": 95, "failedRuns": 5,
        "reason": {"type": "another-job-run-active", "message": "<value>", "docUrl": "https://example.com/reasons#x"},
        "jobConfigurationSnapshot": {"configuration": {"retry": {"maximumAttempts": 3}, "maxConcurrentRequests": 13},
                                     "authSession": {"id": "auth-session-123"}},
    }
    if sink != "absent":
        one["jobConfigurationSnapshot"]["sink"] = sink
    one.update(more)
    return one


def snake(name):
    return "".join("_" + c.lower() if c.isupper() else c for c in name)


def snake_case(value, depth=3):
    """As real producers write it: snake_case outside, camelCase inside the sink."""
    if not isinstance(value, dict) or depth == 0:
        return value
    return {snake(k): v if k == "sink" else snake_case(v, depth - 1) for k, v in value.items()}


def dump(value, style=0):
    """One JSON text of several spellings of the same value; {"@": "1e400"} stands for a raw token."""
    if style == 0:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    elif style == 1:
        text = json.dumps(value, ensure_ascii=True)
    else:
        text = json.dumps(value, indent=1, ensure_ascii=False).replace("\n", "\r\n\t")
    text = re.sub(r'\{\s*"@":\s*"([^"]*)"\s*\}', r"\1", text)
    return text.encode()


def frame(framing, payload, event_id):
    """(value, headers, payload as delivered, secrets still in it) of a run's JSON text."""
    if framing == "bare":
        return payload, (), payload
    if framing.startswith("wrapped"):
        name = b'{"job_run": ' if framing == "wrapped-snake" else b'{"jobRun": '
        results = b' ,"results":{"signed_url":"https://u@r.example.com/1?X-Amz-Signature=deadbeef&b","size":123}}'
        wrapped = name + payload + results
        return wrapped, (), wrapped
    if framing == "ce-binary":
        return payload, (("ce_specversion", "1.0"), ("ce_id", event_id), ("ce_type", "jobrun"), ("ce_source", "/api"),
                         ("content-type", "application/json")), payload
    if framing == "ce-structured":
        head = json.dumps({"specversion": "1.0", "id": event_id, "source": "/api", "type": "jobrun"})
        envelope = head[:-1].encode() + b', "data" : ' + payload + b"}"
        return envelope, (("content-type", "application/cloudevents+json; charset=UTF-8"),), envelope
    if framing == "confluent":
        return b"\x00\x00\x00\x01\x02" + payload, (), payload
    if framing == "outbox":
        return json.dumps(payload.decode()).encode(), (("id", event_id),), payload
    raise ValueError(framing)


def webhook_id(run_, framing, event_id):
    if framing in ("ce-binary", "ce-structured", "outbox"):
        return event_id
    run_ = {model.camel(k): v for k, v in run_.items()}
    return f"{run_['id']}:{run_['updatedAt']}:{run_['status']}"
