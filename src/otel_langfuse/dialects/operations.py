"""What the GenAI conventions' operation names mean to Langfuse; shared by the dialects that use them."""

from __future__ import annotations

from otel_langfuse.model import ObservationType

__all__ = ["OPERATIONS"]

OPERATIONS = {
    "chat": ObservationType.GENERATION,
    "completion": ObservationType.GENERATION,
    "text_completion": ObservationType.GENERATION,
    "generate_content": ObservationType.GENERATION,
    "generate": ObservationType.GENERATION,
    "image_generation": ObservationType.GENERATION,
    "embeddings": ObservationType.EMBEDDING,
    "invoke_agent": ObservationType.AGENT,
    "create_agent": ObservationType.AGENT,
    "agent_step": ObservationType.AGENT,
    "execute_tool": ObservationType.TOOL,
    "retrieval": ObservationType.RETRIEVER,
    "search_memory": ObservationType.RETRIEVER,
    "rerank": ObservationType.RETRIEVER,
    "invoke_workflow": ObservationType.CHAIN,
    "plan": ObservationType.CHAIN,
    "execute_task": ObservationType.CHAIN,
}
