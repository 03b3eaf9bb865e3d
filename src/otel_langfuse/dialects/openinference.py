"""OpenInference (Arize): ``openinference.span.kind``, flattened messages, ``input.value`` and ``output.value``.

Source: openinference-semantic-conventions. Model calls repeat the whole request and response in ``input.value`` and
``output.value``; what the flattened keys say already is not sent again. With its GenAI double keys on, both
vocabularies stand on one span: they agree, and the first reader's word is taken.
"""

from __future__ import annotations

from collections.abc import Mapping

from otel_langfuse.dialects.chat import as_content, as_tools, raw_content
from otel_langfuse.dialects.openinference_bodies import read_request, read_response
from otel_langfuse.dialects.parameters import is_repr, request_parameters
from otel_langfuse.dialects.reading import Row, Table, as_identity, as_integer, as_number, as_text, dump, load, unflatten
from otel_langfuse.dialects.shapes import Hints, shape_of
from otel_langfuse.model import Content, Facts, Json, ObservationType, PromptLink, SpanView, Value

__all__ = ["HINTS", "NAME", "TABLE", "read"]

NAME = "openinference"
HINTS = Hints(scopes=("openinference.instrumentation",), keys=("openinference.span.kind",))
_KIND = "openinference.span.kind"


def _tags(value: Value) -> tuple[str, ...] | None:
    listed = load(value) if isinstance(value, str) else value
    if isinstance(listed, list):
        return tuple(text for item in listed if (text := as_text(item))) or None  # type: ignore[arg-type]  # Json is a Value
    return (value,) if isinstance(value, str) and value else None


TABLE = Table(
    (
        Row(_KIND, "metadata.openinference.span.kind"),
        Row("llm.provider", "provider"),
        Row("llm.system", "provider"),
        Row("llm.request.model_name", "request_model"),
        Row("llm.response.model_name", "response_model"),
        Row("llm.response.model", "response_model"),
        # Where both vocabularies stand on a span, the other one tells the model that was asked from the one that answered.
        Row("gen_ai.response.model", "response_model"),
        Row("llm.model_name", "response_model"),
        Row("embedding.model_name", "response_model"),
        Row("reranker.model_name", "response_model"),
        Row("llm.response.id", "response_id"),
        Row("llm.invocation_parameters", "parameters", request_parameters),
        Row("embedding.invocation_parameters", "parameters", request_parameters),
        Row("llm.token_count.prompt", "usage.input", as_integer),
        Row("llm.token_count.completion", "usage.output", as_integer),
        Row("llm.token_count.total", "usage.total", as_integer),
        Row("llm.token_count.prompt_details.cache_read", "usage.cache_read", as_integer),
        Row("llm.token_count.prompt_details.cache_input", "usage.cache_read", as_integer),
        Row("llm.token_count.prompt_details.cache_write", "usage.cache_write", as_integer),
        Row("llm.token_count.prompt_details.audio", "usage.audio_input", as_integer),
        Row("llm.token_count.completion_details.reasoning", "usage.reasoning", as_integer),
        Row("llm.token_count.completion_details.audio", "usage.audio_output", as_integer),
        # The prompt made of them is the input, or a prompt template's output.
        Row("llm.prompt_template.template", "-"),
        Row("llm.prompt_template.variables", "-"),
        Row("session.id", "session", as_identity),
        Row("user.id", "user", as_identity),
        Row("tag.tags", "tags", _tags),
    )
)
_TYPES = {
    "LLM": ObservationType.GENERATION,
    "EMBEDDING": ObservationType.EMBEDDING,
    "CHAIN": ObservationType.CHAIN,
    "PROMPT": ObservationType.CHAIN,
    "AGENT": ObservationType.AGENT,
    "TOOL": ObservationType.TOOL,
    "RETRIEVER": ObservationType.RETRIEVER,
    "RERANKER": ObservationType.RETRIEVER,
    "GUARDRAIL": ObservationType.GUARDRAIL,
    "EVALUATOR": ObservationType.EVALUATOR,
}
# They mark steps before, around and inside of model calls as model calls, too.
_LOOSE_SCOPES = ("openinference.instrumentation.llama_index", "openinference.instrumentation.beeai")
_OF_CALLS = ("llm.input_messages.", "llm.output_messages.", "llm.prompts", "llm.token_count.", "embedding.embeddings.")
_ERROR = 2  # trace.proto Status.STATUS_CODE_ERROR
_FIRST_TOKEN = "First Token Stream Event"  # noqa: S105  # an event's name


def read(view: SpanView) -> Facts | None:
    """The facts of an OpenInference span."""
    kind = str(view.attributes.get(_KIND) or "").upper()
    if not kind and not view.scope_name.startswith("openinference.instrumentation"):
        return None
    facts = Facts(dialect=NAME)
    TABLE.apply(view.attributes, facts, shape_of(view))
    facts.type = _TYPES.get(kind, ObservationType.SPAN)
    if facts.type is ObservationType.TOOL:
        _tool(view.attributes, facts)
    elif facts.type.is_model_call and _is_step(view):
        facts.type = ObservationType.CHAIN
    if facts.usage is not None and not (facts.usage.input or facts.usage.output or facts.usage.total):
        facts.usage = None  # streams of which nobody counted anything
    if facts.request_model is None:
        facts.request_model = _requested_model(view.attributes)
    _content(view, facts)
    _tools(view.attributes, facts)
    _cost(view.attributes, facts)
    _metadata(view.attributes, facts)
    _prompt(view.attributes, facts)
    for event in view.events:
        if event.name == _FIRST_TOKEN:
            facts.first_token_ns = event.time_ns
            break
    return facts


def _is_step(view: SpanView) -> bool:
    """Whether a span that is called a model call is a step beside one: nothing that was sent or came back is spelled out."""
    return view.scope_name.startswith(_LOOSE_SCOPES) and not any(key.startswith(_OF_CALLS) for key in view.attributes)


def _tool(attributes: Mapping[str, Value], facts: Facts) -> None:
    """A tool's name; its arguments are its input, mostly."""
    facts.name = as_text(attributes.get("tool.name"))
    arguments, given = attributes.get("tool.parameters"), attributes.get("input.value")
    if isinstance(arguments, str) and isinstance(given, str) and _same(arguments, given):
        facts.consumed.add("tool.parameters")


def _same(one: str, other: str) -> bool:
    opened = load(one)
    return one == other or (opened is not None and opened == load(other))


def _requested_model(attributes: Mapping[str, Value]) -> str | None:
    parameters = attributes.get("llm.invocation_parameters")
    given = load(parameters) if isinstance(parameters, str) else None
    return as_text(given.get("model")) if isinstance(given, dict) else None  # type: ignore[arg-type]  # Json is a Value


def _content(view: SpanView, facts: Facts) -> None:
    attributes = view.attributes
    is_chat = facts.type is ObservationType.GENERATION
    given = _messages(attributes, "llm.input_messages", facts.consumed)
    made = _messages(attributes, "llm.output_messages", facts.consumed)
    whole_in, whole_out = attributes.get("input.value"), attributes.get("output.value")
    facts.consumed |= {"input.value", "output.value", "input.mime_type", "output.mime_type"}
    facts.input = as_content(given) if is_chat and given else facts.input
    facts.output = as_content(made, "assistant") if is_chat and made else facts.output
    if facts.type is ObservationType.RETRIEVER:
        facts.output = _documents(attributes, facts.consumed)
    if facts.type is ObservationType.EMBEDDING:
        _embedding(attributes, facts)
    if is_chat:
        read_request(whole_in, facts)
        read_response(whole_out, facts)
        facts.input = facts.input or _prompts(attributes, facts)
    facts.input = facts.input or raw_content(whole_in)
    failed = is_chat and made and view.status_code == _ERROR  # then the envelope holds the failure, not an answer
    if not failed and not is_repr(whole_out):
        facts.output = facts.output or raw_content(whole_out)


def _messages(attributes: Mapping[str, Value], prefix: str, consumed: set[str]) -> list[Value] | None:
    """Messages spelled out in numbered keys, in OpenAI's shape."""
    listed = unflatten(attributes, prefix, consumed)
    if not isinstance(listed, list):
        return None
    found: list[Value] = []
    for item in listed:
        if isinstance(item, dict):
            said, results = item.get("message", item), item.get("function")
            if not isinstance(results, list):
                found.append(_message(said))
                continue
            if isinstance(said, dict) and said.get("content"):
                found.append(_message(said))
            found += [_result(result) for result in results]  # AutoGen's, beside a message that has only a role, mostly
    return found


def _result(given: Json) -> Value:
    """What a tool answered, in AutoGen's words."""
    result = load(given) if isinstance(given, str) else given
    if not isinstance(result, dict) or "content" not in result:
        return {"role": "tool", "content": given}  # type: ignore[dict-item]  # Json is a Value
    said: dict[str, Json] = {"role": "tool", "content": result["content"], "tool_call_id": result.get("call_id")}
    if result.get("name"):
        said["name"] = result["name"]
    return said  # type: ignore[return-value]  # likewise


def _prompts(attributes: Mapping[str, Value], facts: Facts) -> Content | None:
    """The prompts of a completion, which have no roles."""
    listed = attributes.get("llm.prompts")
    if isinstance(listed, list):
        facts.consumed.add("llm.prompts")
        found = [text for item in listed if (text := as_text(item))]
    else:
        given = load(parameters) if isinstance(parameters := attributes.get("llm.invocation_parameters"), str) else None
        text = as_text(given.get("inputText")) if isinstance(given, dict) else None  # type: ignore[arg-type]  # Json is a Value
        found = [text] if text else []
    return raw_content(dump(list(found)) if len(found) > 1 else found[0]) if found else None


def _message(given: Json) -> Value:
    if not isinstance(given, dict):
        return {"role": "", "content": as_text(given)}  # type: ignore[arg-type]  # Json is a Value
    out: dict[str, Value] = {"role": given.get("role") or ""}  # type: ignore[dict-item]  # likewise
    contents = given.get("contents")
    if isinstance(contents, list):
        out["content"] = [_part(item.get("message_content", item)) for item in contents if isinstance(item, dict)]
    elif given.get("content") is not None:
        out["content"] = given["content"]  # type: ignore[assignment]  # likewise
    calls = given.get("tool_calls")
    if isinstance(calls, list):
        out["tool_calls"] = [item.get("tool_call", item) for item in calls if isinstance(item, dict)]  # type: ignore[misc]
    for key in ("tool_call_id", "name"):
        if given.get(key):
            out[key] = given[key]  # type: ignore[assignment]  # likewise
    if given.get("function_call_name"):
        out["tool_calls"] = [
            {"function": {"name": given["function_call_name"], "arguments": given.get("function_call_arguments_json")}}  # type: ignore[dict-item]
        ]
    return out


def _part(given: Json) -> Value:
    """One content part; media sit one level deeper than elsewhere (``image.image.url``)."""
    if not isinstance(given, dict):
        return given  # type: ignore[return-value]  # Json is a Value
    image = given.get("image")
    if isinstance(image, dict):
        inner = image.get("image")
        return {"type": "image_url", "image_url": inner if isinstance(inner, dict) else image}  # type: ignore[dict-item]
    audio = given.get("audio")
    if isinstance(audio, dict) and isinstance(audio.get("audio"), dict):
        return {"type": "uri", "modality": "audio", "uri": audio["audio"].get("url")}  # type: ignore[union-attr, dict-item]
    return given  # type: ignore[return-value]  # likewise


def _documents(attributes: Mapping[str, Value], consumed: set[str]) -> Content | None:
    for prefix in ("retrieval.documents", "reranker.output_documents"):
        listed = unflatten(attributes, prefix, consumed)
        if isinstance(listed, list):
            found = [item.get("document", item) for item in listed if isinstance(item, dict)]
            return raw_content(dump(found))
    return None


def _embedding(attributes: Mapping[str, Value], facts: Facts) -> None:
    """The embedded texts; vectors are left out, they are no text and would be most of the payload."""
    texts = []
    for key, value in attributes.items():
        if key.startswith("embedding.embeddings."):
            if key.endswith(".embedding.text"):
                texts.append(as_text(value))
            facts.consumed.add(key)
    if texts:
        facts.input = raw_content(dump(list(texts)) if len(texts) > 1 else texts[0])
    facts.output = facts.output or raw_content(dump({"count": len(texts)})) if texts else facts.output


def _tools(attributes: Mapping[str, Value], facts: Facts) -> None:
    if not any(key.startswith("llm.tools.") for key in attributes):
        return
    listed = unflatten(attributes, "llm.tools", facts.consumed)
    found: list[Value] = []
    for item in listed if isinstance(listed, list) else ():
        inner = item.get("tool", item) if isinstance(item, dict) else item
        found.append(_definition(inner) if isinstance(inner, dict) else inner)  # type: ignore[arg-type]  # Json is a Value
    facts.tools = as_tools(found)


def _definition(given: dict[str, Json]) -> Json:
    """A tool's definition, which ``json_schema`` holds whole, or as its parameters alone beside its name."""
    if "json_schema" not in given:
        return given
    schema = given["json_schema"]
    opened = load(schema) if isinstance(schema, str) else schema
    if not given.get("name") or not isinstance(opened, dict) or not {"name", "function", "toolSpec"}.isdisjoint(opened):
        return schema
    return {"name": given["name"], "description": given.get("description"), "parameters": opened}


def _cost(attributes: Mapping[str, Value], facts: Facts) -> None:
    found = {}
    for key, name in (("llm.cost.prompt", "input"), ("llm.cost.completion", "output"), ("llm.cost.total", "total")):
        number = as_number(attributes.get(key))
        if number is not None:
            found[name] = number
            facts.consumed.add(key)
    if found:
        found.setdefault("total", sum(found.values()))
        facts.cost = found


def _metadata(attributes: Mapping[str, Value], facts: Facts) -> None:
    """``metadata`` is one JSON object; its thread or session id is LangChain's conversation."""
    raw = attributes.get("metadata")
    given = load(raw) if isinstance(raw, str) else None
    if not isinstance(given, dict):
        return
    facts.consumed.add("metadata")
    for key, item in given.items():
        text = as_text(item)  # type: ignore[arg-type]  # Json is a Value
        if text is not None:
            facts.metadata.setdefault(key, text)

    def first(*keys: str) -> str | None:
        return next((found for key in keys if (found := as_text(given.get(key)))), None)  # type: ignore[arg-type]  # likewise

    facts.conversation = facts.conversation or first("thread_id", "conversation_id")
    facts.user = facts.user or first("langfuse_user_id", "user_id")
    facts.session = facts.session or first("langfuse_session_id", "session_id")


def _prompt(attributes: Mapping[str, Value], facts: Facts) -> None:
    if attributes.get("prompt.vendor") == "langfuse":
        name, version = as_text(attributes.get("prompt.id")), as_text(attributes.get("llm.prompt_template.version"))
        if name and version:
            facts.prompt = PromptLink(name, version)
