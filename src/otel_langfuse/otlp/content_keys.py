"""Which attributes hold what people and models said: prompts, answers, tool values, documents, embeddings. Data.

Three nets, from certain to careful:

1. Keys that hold content wherever they stand: ``CONTENT`` and ``CONTENT_PREFIXES``.
2. Plain words such as ``events`` or ``prompt``, which hold content on GenAI spans only: ``ON_GENAI``.
3. On GenAI spans every text under a key that sounds like content (``_SOUNDS``), so that a library's next key does not
   slip through; ``_HARMLESS`` lists what sounds so and is none.

Numbers are content only under the first two.
"""

from __future__ import annotations

import re
from enum import IntEnum
from functools import lru_cache

__all__ = [
    "CONTENT",
    "CONTENT_PREFIXES",
    "HINTS",
    "ON_GENAI",
    "PARAMETERS",
    "Holds",
    "holds",
    "is_spoken_parameter",
    "is_structure",
]


_KEY_LIMIT = 200  # characters of a key that are looked at


class Holds(IntEnum):
    """What an attribute holds."""

    NOTHING = 0
    TEXT = 1
    """Content if it is text."""
    CONTENT = 2
    """Content whatever its type."""


CONTENT = frozenset(
    """
    ai.embedding ai.embeddings ai.prompt ai.prompt.messages ai.prompt.toolChoice ai.prompt.tools ai.reasoning ai.response.files
    ai.response.object ai.response.reasoning ai.response.text ai.response.toolCalls ai.result.object ai.result.text
    ai.result.toolCalls ai.schema ai.toolCall.args ai.toolCall.input ai.toolCall.output ai.toolCall.result ai.value ai.values
    all_messages_events
    crewai.agent.backstory crewai.agent.goal crewai.crew.agents crewai.crew.result crewai.crew.tasks crewai.crew.tasks_output
    crewai.task.description crewai.task.expected_output
    gcp.vertex.agent.data gcp.vertex.agent.llm_request gcp.vertex.agent.llm_response gcp.vertex.agent.tool_call_args
    gcp.vertex.agent.tool_response
    gen_ai.agent.input gen_ai.agent.output gen_ai.choice gen_ai.completion gen_ai.content gen_ai.content.completion
    gen_ai.content.prompt gen_ai.content.reasoning gen_ai.documents gen_ai.event.content gen_ai.input gen_ai.input.messages
    gen_ai.output gen_ai.output.messages gen_ai.prompt gen_ai.retrieval.documents gen_ai.retrieval.query
    gen_ai.retrieval.query.text gen_ai.system_instructions gen_ai.task.input gen_ai.task.output gen_ai.tool.args
    gen_ai.tool.arguments gen_ai.tool.call.arguments gen_ai.tool.call.result gen_ai.tool.definitions gen_ai.tool.input
    gen_ai.tool.json_schema gen_ai.tool.message gen_ai.tool.output gen_ai.tool.result gen_ai.workflow.input
    gen_ai.workflow.output
    genkit:input genkit:output
    input.value output.value
    langfuse.observation.input langfuse.observation.output langfuse.trace.input langfuse.trace.output
    langsmith.inputs langsmith.outputs
    llm.completions llm.function_call llm.input llm.output llm.prompt_template.template llm.prompt_template.variables
    llm.prompts llm.request.messages llm.response.text
    mcp.request.argument mcp.request.arguments mcp.response.value
    mlflow.chat.messages mlflow.chat.tools mlflow.spanInputs mlflow.spanOutputs mlflow.traceInputs mlflow.traceOutputs
    pydantic_ai.all_messages
    tool.arguments tool.parameters
    traceloop.entity.input traceloop.entity.output traceloop.prompt.template traceloop.prompt.template_variables
    """.split()
)
"""Keys that hold content wherever they stand."""

CONTENT_PREFIXES = (
    "embedding.embeddings.",
    "embedding.vector.",
    "gen_ai.completion.",
    "gen_ai.input.messages.",
    "gen_ai.output.messages.",
    "gen_ai.prompt.",
    "gen_ai.retrieval.documents.",
    "langfuse.experiment.",
    "lk.chat_ctx",
    "lk.function_tool.arguments",
    "lk.function_tool.output",
    "lk.input_text",
    "lk.instructions",
    "lk.response.",
    "lk.user_",
    "llm.completions.",
    "llm.input_messages.",
    "llm.output_messages.",
    "llm.prompts.",
    "llm.request.functions.",
    "llm.tools.",
    "reranker.input_documents.",
    "reranker.output_documents.",
    "reranker.query",
    "retrieval.documents.",
)
"""Beginnings of such keys, as of those that number messages."""

ON_GENAI = frozenset(
    """
    completion events final_result input inputs logfire.msg messages model_request_parameters output outputs prompt prompts
    request_data response response_data result template tool_arguments tool_response tool_result tools variables
    """.split()
)
"""Keys that hold content on spans of GenAI instrumentations."""

PARAMETERS = frozenset(
    """
    embedding.invocation_parameters gen_ai.request.parameters langfuse.observation.model.parameters llm.invocation_parameters
    """.split()
)
"""Keys with one JSON object of parameters, among which may be instructions, messages and tools."""

HINTS = (
    b"gen_ai", b"llm.", b"openinference", b"traceloop", b"langfuse.", b"ai.prompt", b"ai.response", b"ai.result", b"ai.value",
    b"ai.toolCall", b"ai.embedding", b"ai.schema", b"ai.operationId", b"ai.reasoning", b"genkit", b"langsmith", b"mlflow",
    b"lk.", b"livekit", b"pydantic", b"logfire", b"mcp", b"gcp.vertex.agent", b"input.value", b"output.value", b"retrieval.",
    b"reranker.", b"embedding.", b"tool.parameters", b"all_messages_events", b"strands", b"semantic_kernel", b"SemanticKernel",
    b"litellm", b"openlit", b"anthropic", b"crewai", b"tool.arguments",
)  # fmt: skip
"""What a payload with content contains somewhere: one without any needs no look inside."""

_SOUNDS = re.compile(
    r"prompt|message|content|input|output|query|document|argument|template|instruction|transcript|completion(?!_tokens)"
    r"|(^|[._])(choices|text|tools|tool_calls?|reasoning|system_prompt|body|args|kwargs)$",
    re.IGNORECASE,
)
# Raw bodies of a provider, one attribute for each of their fields: ``llm.openai.messages``.
_RAW_FIELD = re.compile(
    r"llm\.(?!token_count|usage|cost)[^.]+\.(messages|choices|content|input|output|instructions|tools|reasoning|text|system|prompt)$"
)
_HARMLESS = re.compile(
    r"^(app|aws|client|cloud|code|db|enduser|error|exception|faas|host|http|k8s|messaging|net|network|os|otel|process|rpc"
    r"|server|service|session|telemetry|thread|url|user|user_agent|peer)\."
    r"|^gen_ai\.(operation|provider|request|response|usage|conversation|output\.type|agent\.(id|name)|tool\.(name|type|call\.id)"
    r"|prompt\.(name|version|id)$|aggregated_usage|server|client|cost|data_source|evaluation\.(name|score))"
    r"|^langfuse\.(observation\.(prompt|usage_details|cost_details|model|type|level|completion_start_time|metadata"
    r"|status_message)|trace\.(name|tags|metadata|id|url|public)|(environment|release|version|internal)$)"
    r"|^ai\.(operationId|model|usage|telemetry|settings|response\.(id|model|timestamp|finishReason|ms|avg|providerMetadata))"
    r"|^llm\.(token_count|usage|cost|invocation_parameters|is_streaming|finish_reason|request\.type)"
    r"|^traceloop\.(association|prompt\.(key|version|managed)|entity\.(name|path|version)|workflow|span)"
    r"|^logfire\.(msg_template|json_schema)$|(mime_type|_reasons?|_tokens?|_count|\.(name|id|kind|type|role|version|index|hash|cost|seconds))$"
)
_STRUCTURE = re.compile(r"(^|\.)(role|id|tool_call_id|type|finish_reason|index|name|mime_type)$")
_SPOKEN_PARAMETER = re.compile(
    r"^(contents?|documents?|functions|input|instructions|messages?|prompt|query|response_format|suffix|system\w*|text|tools)$",
    re.IGNORECASE,
)
_DB_CONTENT = re.compile(r"^db\..*(document|embedding)")


def holds(key: str, genai: bool) -> Holds:
    """What the attribute ``key`` holds, on a GenAI span or another."""
    return _holds(key[:_KEY_LIMIT], genai)


def is_structure(key: str) -> bool:
    """Whether a key within content says what kind of thing it is: roles, ids, names, reasons to finish."""
    return len(key) <= _KEY_LIMIT and _STRUCTURE.search(key) is not None


@lru_cache(maxsize=4096)
def _holds(key: str, genai: bool) -> Holds:
    if key in ("gen_ai.prompt.name", "gen_ai.prompt.version", "gen_ai.prompt.id"):
        return Holds.NOTHING
    if key in CONTENT or key.startswith(CONTENT_PREFIXES) or _RAW_FIELD.match(key) or _DB_CONTENT.match(key):
        return Holds.CONTENT
    if not genai:
        return Holds.NOTHING
    if key in ON_GENAI:
        return Holds.CONTENT
    return Holds.TEXT if _SOUNDS.search(key) and not _HARMLESS.search(key) else Holds.NOTHING


def is_spoken_parameter(key: str) -> bool:
    """Whether a request's parameter is content."""
    return _SPOKEN_PARAMETER.match(key) is not None
