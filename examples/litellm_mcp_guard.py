"""Guards MCP tools behind a LiteLLM proxy: LiteLLM's own generic guardrail, with the modes for MCP switched on.

LiteLLM's generic guardrail takes no MCP mode by itself (read in 1.108), although its translation knows what to send. Put this
file beside the proxy's config:

    guardrails:
      - guardrail_name: vlmguard-mcp
        litellm_params:
          guardrail: litellm_mcp_guard.McpGuard
          mode: [pre_mcp_call, post_mcp_call]
          api_base: http://127.0.0.1:8000
          default_on: true

LiteLLM sends the words of calls and results alone: a picture in a result of a tool is seen by nobody there.
"""

from litellm.proxy.guardrails.guardrail_hooks.generic_guardrail_api import GenericGuardrailAPI
from litellm.types.guardrails import GuardrailEventHooks

MCP = (GuardrailEventHooks.pre_mcp_call, GuardrailEventHooks.during_mcp_call, GuardrailEventHooks.post_mcp_call)


class McpGuard(GenericGuardrailAPI):
    """Asks `vlmguard serve` about MCP tools, too."""

    @classmethod
    def get_supported_event_hooks(cls) -> list[GuardrailEventHooks]:
        """Add the modes for MCP."""
        return [*super().get_supported_event_hooks(), *MCP]

    apply_guardrail = GenericGuardrailAPI.apply_guardrail  # LiteLLM passes over a class that does not name it itself
