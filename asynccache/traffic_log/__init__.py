"""Logs of LLM calls, as several programs write them → calls, one after another.

Read are JSON, one object a line, or one JSON array:
  requests           the arguments of a call: `{"model": …, "messages": […]}`
  batch files        OpenAI's: `{"custom_id": …, "url": "/v1/chat/completions", "body": {…}}`
  calls              `{"request": {…}, "answer": {…}, "began": …, "seconds": …}`; also `call_type`, `tenant`, `usage`
  LiteLLM            rows of LiteLLM_SpendLogs, with prompts where `store_prompts_in_spend_logs` keeps them
  OpenTelemetry      OTLP exports as JSON, whose spans follow the GenAI conventions, with their content
"""

from asynccache.traffic_log.calls import LoggedCall, TrafficLog, Unreadable, by_path, call_type_of
from asynccache.traffic_log.reading import calls_in, prompts, read_log

__all__ = ["LoggedCall", "TrafficLog", "Unreadable", "by_path", "call_type_of", "calls_in", "prompts", "read_log"]
