"""Start of serving: the engines, handlers and server that a config asks for."""

import atexit
from collections.abc import Callable
from functools import partial
from pathlib import Path

from transformers import AutoTokenizer

from agentrl.config import AuxiliaryModel, Config, EngineConfig, ModelConfig, compute_dtype
from agentrl.serving.chat_template import ChatTemplate
from agentrl.serving.client import AuxiliaryClient, Serving
from agentrl.serving.engine import Engine
from agentrl.serving.handler import Handler
from agentrl.serving.output_parser import OutputParser
from agentrl.serving.process import freeze_garbage, prepare_process
from agentrl.serving.remote import RemoteModel, key_of
from agentrl.serving.sampling import EngineClient
from agentrl.serving.server import Server
from agentrl.serving.vllm_args import Use, start_vllm

StartEngine = Callable[[str, str | Path, ModelConfig | AuxiliaryModel, EngineConfig], EngineClient]
"""(name, folder, its config, its engine's config) -> a model's engine."""


def serve(
    config: Config, folder: str | Path, first: str | Path | None = None, use: Use = "alone"
) -> Serving:
    """Start vLLM on a model folder, and what reaches it and the auxiliary models.

    first: what training began with, which an auxiliary model that names none is; absent: the same.
    use: ``training``, where a trainer has the memory in turns with it.
    """
    prepare_process()
    if use == "alone" and any(model.url is None for model in config.auxiliary_models.values()):
        # The GPU is not its alone.
        use = "auxiliary"
    serving = front(config, folder, first or folder, partial(_start_engine, config, use))
    # However the process ends, vLLM is shut down first.
    atexit.register(serving.close)
    freeze_garbage()
    return serving


def front(
    config: Config, folder: str | Path, first: str | Path, start_engine: StartEngine
) -> Serving:
    """What reaches the policy's engine and the auxiliary models'; folder, first: as above."""
    policy = _handler(config, "policy", folder, config.model, config.engine, start_engine)
    auxiliary = {
        name: _auxiliary(config, name, model, first, start_engine)
        for name, model in config.auxiliary_models.items()
    }
    server = Server(host=config.server.host, port=config.server.port)
    return Serving(server, policy, auxiliary, seed=config.seed, folder=folder)


def _auxiliary(
    config: Config,
    name: str,
    model: AuxiliaryModel,
    folder: str | Path,
    start_engine: StartEngine,
) -> AuxiliaryClient:
    """A model with an engine of its own, or how to reach the one at its url.

    folder: for a model that names none.
    """
    if model.url is None:
        return _handler(config, name, model.model or folder, model, model.engine, start_engine)
    return partial(RemoteModel, model.model, model.url, key_of(name, model))


def _handler(
    config: Config,
    name: str,
    folder: str | Path,
    model: ModelConfig | AuxiliaryModel,
    engine_config: EngineConfig,
    start_engine: StartEngine,
) -> Handler:
    engine = start_engine(name, folder, model, engine_config)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    output_parser = OutputParser(tokenizer, model.tool_parser, model.reasoning_parser)
    return Handler(
        name,
        engine,
        ChatTemplate(tokenizer, output_parser.reasoning_end),
        output_parser,
        temperature=config.sampling.temperature,
        max_tokens=config.sampling.max_tokens,
        max_model_len=model.max_model_len,
        strict_tools=config.sampling.strict_tools or model is not config.model,
    )


def _start_engine(
    config: Config,
    use: Use,
    name: str,
    folder: str | Path,
    model: ModelConfig | AuxiliaryModel,
    engine_config: EngineConfig,
) -> EngineClient:
    llm = start_vllm(
        folder,
        max_model_len=model.max_model_len,
        dtype=compute_dtype(config.model),
        config=engine_config,
        reasoning_parser=model.reasoning_parser,
        use=use if model is config.model else "auxiliary",
        deterministic=config.deterministic,
    )
    return Engine(llm, lockstep=config.deterministic, sleep_level=engine_config.sleep_level)
