"""docs/coming_from.md names every argument and key of the systems that people come from."""

import re
from dataclasses import fields

from agentrl import AlgorithmConfig, DatasetConfig, TunerModelConfig
from agentrl.algorithms.named import load_algorithm
from bench.house import settings
from tests.support.checkout import ROOT

PAGE = (ROOT / "docs" / "coming_from.md").read_text(encoding="utf-8")
WORDS = {word for code in re.findall(r"`([^`\n]+)`", PAGE) for word in re.findall(r"[\w]+", code)}
# The leaves of AgentJet's default YAML.
AGENTJET = """
project_name experiment_dir backbone path max_prompt_length max_response_length train_batch_size
user_workflow force_disable_toolcalls max_env_worker gamma max_response_length_in_one_turn
max_model_len max_steps tensor_model_parallel_size n_vllm_engine max_num_seqs num_repeat
temperature top_p val_kwargs jsonl_dataset_file env_service huggingface_dat_repo judge_protocol
rubrics_auto_grader context_tracker debug val_before_train save_freq test_freq total_epochs nnodes
n_gpus_per_node logger adv_estimator use_kl_in_reward mini_batch_num fsdp_config lr use_kl_loss
kl_loss_coef ulysses_sequence_parallel_size enable_experimental_interchange_server
interchange_server task_runner
"""
OTHERS = {"exp", "env", "algorithm", "num-processes", "num-machines", "debug"}
"""Flags of commands, which are no settings."""


def test_every_field_of_the_tuners_configs_is_there():
    configs = (TunerModelConfig, DatasetConfig, AlgorithmConfig)
    assert {field.name for config in configs for field in fields(config)} <= WORDS


def test_every_key_of_agentjets_is_there():
    assert {*AGENTJET.split()} <= WORDS


def test_every_flag_that_it_names_exists():
    own = {f"algorithm.{f.name}" for name in ("grpo", "kl") for f in fields(load_algorithm(name))}
    known = {name.replace("_", "-") for name in {*settings(), *own}} | OTHERS
    named = {flag.replace("_", "-") for flag in re.findall(r"--([a-z][\w.-]*)", PAGE)}
    assert len(named) > 25
    assert named <= known, named - known
