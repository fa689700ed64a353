"""What stands in a configuration file of LiteLLM's proxy, and what of it is ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, create_model
from pydantic_core import PydanticCustomError

from asynccache import litellm_settings
from asynccache.document import is_secret
from asynccache.litellm_settings import FOREIGN, LIFETIMES, table_in, wanted


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PydanticCustomError("url", "an URL is wanted, such as https://api.openai.com")
    return value.rstrip("/")


URL = Annotated[str, AfterValidator(_url)]


class Part(BaseModel):
    """A table of a configuration file: names that are not known are errors, and no value is shown in one."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=True)


def _named(base: type[BaseModel], name: str, names: tuple[str, ...]) -> Any:
    fields: dict[str, Any] = {
        field: (SecretStr | None if is_secret(field) else Any, Field(default=None, repr=False))
        for field in names
        if field not in base.model_fields
    }
    return create_model(name, __base__=base, __module__=__name__, __doc__=base.__doc__, **fields)


# -- litellm_settings -------------------------------------------------------------------------------

_ROUTING = (
    *("drop_params", "modify_params", "num_retries", "request_timeout", "timeout", "fallbacks", "default_fallbacks"),
    *("context_window_fallbacks", "content_policy_fallbacks", "allowed_fails", "cooldown_time", "ssl_verify"),
    *(
        "set_verbose",
        "json_logs",
        "turn_off_message_logging",
        "redact_user_api_key_info",
        "telemetry",
        "suppress_debug_info",
    ),
    *("failure_callback", "service_callback", "audit_log_callbacks", "log_raw_request_response", "max_budget"),
    *("budget_duration", "default_team_settings", "default_internal_user_params", "upperbound_key_generate_params"),
    *(
        "key_generation_settings",
        "public_routes",
        "force_ipv4",
        "disable_end_user_cost_tracking",
        "user_url_validation",
    ),
    *("default_redis_batch_cache_expiry", "enable_redis_auth_cache", "custom_provider_map", "guardrails"),
    *("enable_caching_on_provider_specific_optional_params", "credential_list", "api_key", "api_base"),
    *("add_user_information_to_llm_headers", "forward_traceparent_to_llm_provider", "disable_hf_tokenizer_download"),
    *("enable_json_schema_validation", "always_include_stream_usage", "enable_preview_features", "cache_kwargs"),
    *("prometheus_metrics_config", "prometheus_initialize_budget_metrics"),
)


class _LiteLLMSettings(Part):
    """LiteLLM's own table. Of it count `cache`, `cache_params`, `enable_prometheus`, `callbacks`, the default ttls and
    `caching_groups`."""

    cache: bool = Field(default=False, description="Cache with cache_params; its default is Redis at REDIS_HOST.")
    cache_params: dict[str, Any] = Field(default={}, repr=False, description="As `caching`.")
    caching_groups: list[list[str]] = Field(default=[], description="Models that share entries.")
    enable_prometheus: bool = Field(default=False, description="As `telemetry.prometheus`.")
    require_auth_for_metrics_endpoint: bool | None = Field(default=None, description="As `telemetry.metrics_need_key`.")
    callbacks: list[str] | str = Field(default=[], description='"prometheus" and "otel" count.')
    success_callback: list[str] | str = Field(default=[], description='"prometheus" and "otel" count.')
    default_in_memory_ttl: float | None = Field(default=None, ge=0)
    default_redis_ttl: float | None = Field(default=None, ge=0)


if TYPE_CHECKING:
    LiteLLMSettings = _LiteLLMSettings
else:
    LiteLLMSettings = _named(_LiteLLMSettings, "LiteLLMSettings", _ROUTING)

# -- general_settings and router_settings -------------------------------------------------------------

_GENERAL = (
    *("database_url", "database_connection_pool_limit", "database_connection_timeout", "alerting", "alerting_args"),
    *("alerting_threshold", "alert_types", "alert_to_webhook_url", "allow_requests_on_db_unavailable", "custom_auth"),
    *("disable_spend_logs", "disable_master_key_return", "disable_retry_on_max_parallel_request_limit_error"),
    *("disable_reset_budget", "disable_adding_master_key_hash_to_db", "disable_error_logs", "enforce_user_param"),
    *("enable_jwt_auth", "enable_oauth2_proxy_auth", "litellm_jwtauth", "allowed_routes", "admin_only_routes"),
    *(
        "public_routes",
        "key_management_system",
        "key_management_settings",
        "store_model_in_db",
        "max_parallel_requests",
    ),
    *("max_response_size_mb", "infer_model_from_keys", "background_health_checks", "health_check_interval"),
    *("completion_model", "ui_access_mode", "use_x_forwarded_for", "pass_through_endpoints", "proxy_batch_write_at"),
    *(
        "proxy_budget_rescheduler_min_time",
        "proxy_budget_rescheduler_max_time",
        "otel",
        "salt_key",
        "user_api_key_cache_ttl",
    ),
    *("store_prompts_in_spend_logs", "maximum_spend_logs_retention_period", "service_account_settings"),
    *("forward_client_headers_to_llm_api", "forward_openai_org_id", "default_team_disabled", "coordination_redis"),
    *("token_rate_limit_type", "use_redis_transaction_buffer", "image_generation_model", "litellm_key_header_name"),
)


class _GeneralSettings(Part):
    """LiteLLM's own table. Of it count `master_key`, `max_request_size_mb` and `global_max_parallel_requests`."""

    master_key: SecretStr | None = Field(default=None, description="As `proxy.master_key`, and a key for calls.")
    max_request_size_mb: float | None = Field(default=None, gt=0, description="As `proxy.max_body_bytes`.")
    global_max_parallel_requests: int | None = Field(default=None, gt=0, description="As `proxy.max_concurrent`.")


if TYPE_CHECKING:
    GeneralSettings = _GeneralSettings
else:
    GeneralSettings = _named(_GeneralSettings, "GeneralSettings", _GENERAL)


class RouterSettings(BaseModel):
    """LiteLLM's own table. Routing is not caching: of it counts `caching_groups`, the rest is ignored."""

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)

    caching_groups: list[list[str]] = Field(default=[], description="Models that share entries.")


# -- model_list -------------------------------------------------------------------------------------

BODY = (
    *("temperature", "top_p", "top_k", "n", "max_tokens", "max_completion_tokens", "max_output_tokens", "stop", "seed"),
    *("presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "user", "response_format"),
    *("tools", "tool_choice", "parallel_tool_calls", "reasoning_effort", "thinking", "service_tier", "dimensions"),
    *("encoding_format", "metadata", "store", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"),
    *("extra_body", "stream_options", "modalities", "prediction", "verbosity", "input_type"),
)
"""Of `litellm_params`: what every request to the model has in its body, unless it says otherwise."""

OWN = (
    *("api_version", "organization", "project", "region_name", "azure_ad_token", "tenant_id", "client_id"),
    *("client_secret", "azure_username", "azure_password", "azure_scope", "aws_access_key_id", "aws_secret_access_key"),
    *("aws_session_token", "aws_region_name", "aws_session_name", "aws_profile_name", "aws_role_name"),
    *("aws_web_identity_token", "aws_sts_endpoint", "aws_external_id", "aws_bedrock_runtime_endpoint"),
    *("vertex_project", "vertex_location", "vertex_credentials", "watsonx_region_name", "custom_llm_provider"),
)
"""Of `litellm_params`: what a provider wants to know besides."""

PRICES = (
    *("input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost"),
    *("cache_creation_input_token_cost", "input_cost_per_second", "output_cost_per_second"),
)

_IGNORED_PARAMS = (
    *("rpm", "tpm", "weight", "max_retries", "num_retries", "stream_timeout", "drop_params", "mock_response", "tags"),
    *(
        "max_budget",
        "budget_duration",
        "max_parallel_requests",
        "use_in_pass_through",
        "merge_reasoning_content_in_choices",
    ),
    *("litellm_credential_name", "model_info", "order", "additional_drop_params", "allowed_openai_params"),
    *("max_file_size_mb", "configurable_clientside_auth_params", "cooldown_time", "use_litellm_proxy", "guardrails"),
)


class _LiteLLMParams(Part):
    """Where a model's calls go, and with what."""

    model: str = Field(min_length=1, description='The provider and its name for the model: "anthropic/claude-…".')
    api_base: URL | None = Field(default=None, description="The provider's base URL.")
    base_url: URL | None = Field(default=None, description="Another name of api_base.")
    api_key: SecretStr | None = Field(default=None, description="The provider's key.")
    extra_headers: dict[str, str] | None = Field(default=None, repr=False, description="Headers of every request.")
    headers: dict[str, str] | None = Field(default=None, repr=False, description="Another name of extra_headers.")
    timeout: float | None = Field(default=None, gt=0, description="Seconds until an answer has to begin.")
    cache_control_injection_points: list[dict[str, Any]] | None = Field(default=None, description="For this model.")

    @property
    def base(self) -> str | None:
        """The provider's base URL, as far as the file says it."""
        return self.api_base or self.base_url

    @property
    def sent_headers(self) -> dict[str, str]:
        """Headers of every request, besides the credential."""
        return {**(self.headers or {}), **(self.extra_headers or {})}

    @property
    def body(self) -> dict[str, Any]:
        """What its requests have in their body unless they say otherwise."""
        given = {name: getattr(self, name) for name in BODY if name in self.model_fields_set}
        extra = given.pop("extra_body", None)
        return {**given, **(extra if isinstance(extra, Mapping) else {})}

    @property
    def own(self) -> dict[str, Any]:
        """What the provider wants to know besides, by LiteLLM's names; secrets are SecretStr."""
        return {name: getattr(self, name) for name in OWN if name in self.model_fields_set}


if TYPE_CHECKING:
    LiteLLMParams = _LiteLLMParams
else:
    LiteLLMParams = _named(_LiteLLMParams, "LiteLLMParams", (*BODY, *OWN, *PRICES, *_IGNORED_PARAMS))


# -- what it means here -----------------------------------------------------------------------------

ORIGINS = {
    ("caching",): ("litellm_settings", "cache_params"),
    ("proxy", "master_key"): ("general_settings", "master_key"),
    ("proxy", "max_body_bytes"): ("general_settings", "max_request_size_mb"),
    ("proxy", "max_concurrent"): ("general_settings", "global_max_parallel_requests"),
    ("telemetry", "prometheus"): ("litellm_settings", "enable_prometheus"),
    ("telemetry", "metrics_need_key"): ("litellm_settings", "require_auth_for_metrics_endpoint"),
}
"""Our place → that from which a value of LiteLLM's tables came."""


def translated(given: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """The tables with what LiteLLM's say put where ours have it; ours count where both say something."""
    table = litellm_settings.translated(given, environment)
    litellm, general, _ = (table_in(table, name) for name in _TABLES)
    wanted = {name for field in ("callbacks", "success_callback") for name in _strings(litellm.get(field))}
    telemetry = {
        "prometheus": litellm.get("enable_prometheus") or "prometheus" in wanted or None,
        "opentelemetry": bool(wanted & {"otel", "opentelemetry"}) or None,
        "metrics_need_key": litellm.get("require_auth_for_metrics_endpoint"),
        # Who asks for metrics there looks for them by the names that the dashboards know.
        "litellm_names": litellm.get("enable_prometheus") or None,
    }
    proxy = {"master_key": general.get("master_key"), "max_concurrent": general.get("global_max_parallel_requests")}
    if isinstance(size := general.get("max_request_size_mb"), int | float):
        proxy["max_body_bytes"] = int(size * 2**20)
    for name, said in (("telemetry", telemetry), ("proxy", proxy)):
        said = {option: value for option, value in said.items() if value is not None}
        if said and isinstance(table.get(name, {}), Mapping):
            table[name] = {**said, **table.get(name, {})}
    return table


def notes(given: Mapping[str, Any]) -> Iterator[str]:
    """What of LiteLLM's tables has no effect here, in words."""
    litellm, general, router = (table_in(given, name) for name in _TABLES)
    if wanted(given) and "caching" in given:
        yield "litellm_settings.cache_params is ignored: there is a `caching` table"
    for name, why in FOREIGN.items():
        if name in table_in(litellm, "cache_params") and name not in LIFETIMES:
            yield f"cache_params.{name} is ignored{': ' if why else ''}{why}"
    ignored = sorted({*litellm} & {*_ROUTING})
    if ignored:
        yield f"litellm_settings: {', '.join(ignored)}: ignored, they are not about caching"
    if ignored := sorted({*general} & {*_GENERAL}):
        yield f"general_settings: {', '.join(ignored)}: ignored, they are not about caching"
    if {*router} - {"caching_groups"}:
        yield "router_settings is ignored: routing is not caching (models of the same name take turns)"


_TABLES = ("litellm_settings", "general_settings", "router_settings")


def _strings(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [item for item in value or () if isinstance(item, str)]
