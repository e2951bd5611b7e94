"""The four ways of AgentJet's tutorial to write an agent, AgentScope 1.x among them; a judge."""

import requests

from agentrl.ajet import AjetTuner, BaseJudge, Workflow, WorkflowOutput, WorkflowTask

SYSTEM = "You solve word problems. The answer stands in a box."
RUN_PYTHON = {
    "name": "run_python",
    "description": "Runs code.",
    "parameters": {"type": "object", "properties": {"code": {"type": "string"}}},
}


class AgentScope(Workflow):
    name: str = "math_agent"

    async def execute(self, workflow_task: WorkflowTask, tuner: AjetTuner) -> WorkflowOutput:
        from agentscope.agent import ReActAgent
        from agentscope.formatter import DashScopeChatFormatter
        from agentscope.memory import InMemoryMemory
        from agentscope.message import Msg
        from agentscope.tool import Toolkit, execute_python_code

        self.toolkit = Toolkit()
        self.toolkit.register_tool_function(execute_python_code)
        self.agent = ReActAgent(
            name="mathematician",
            sys_prompt=SYSTEM,
            model=tuner.as_agentscope_model(),
            formatter=DashScopeChatFormatter(),
            toolkit=self.toolkit,
            memory=InMemoryMemory(),
            max_iters=2,
        )
        self.agent.set_console_output_enabled(False)
        reply = await self.agent.reply(Msg("user", workflow_task.task.main_query, role="user"))
        return WorkflowOutput(reward=None, metadata={"final_answer": str(reply.content)})


class LangChain(Workflow):
    system_prompt: str = SYSTEM

    async def execute(self, workflow_task: WorkflowTask, tuner: AjetTuner) -> WorkflowOutput:
        from langchain.agents import create_agent
        from langchain_openai import ChatOpenAI

        given = tuner.as_oai_baseurl_apikey()
        llm = ChatOpenAI(base_url=given.base_url, api_key=lambda: given.api_key)
        agent = create_agent(model=llm, system_prompt=self.system_prompt)
        asked = {"role": "user", "content": workflow_task.task.main_query}
        said = agent.invoke({"messages": [asked]})["messages"][-1].content
        return WorkflowOutput(reward=None, metadata={"final_answer": said})


class OpenAISDK(Workflow):
    tools: list = [{"type": "function", "function": RUN_PYTHON}]  # noqa: RUF012

    async def execute(self, workflow_task: WorkflowTask, tuner: AjetTuner) -> WorkflowOutput:
        client = tuner.as_raw_openai_sdk_client()
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": workflow_task.task.main_query},
        ]
        answer = await client.chat.completions.create(messages=messages, tools=self.tools)
        message = answer.choices[0].message
        messages.append({"role": "assistant", "content": message.content or ""})
        for call in message.tool_calls or []:
            messages.append({"role": "tool", "tool_call_id": call.id, "content": "3"})
        answer = await client.chat.completions.create(messages=messages)
        tuner.update_judge_input_dictionary(final_answer=answer.choices[0].message.content or "")
        return WorkflowOutput(reward=None, log_metrics={"calls": 2})


class RawHTTP(Workflow):
    async def execute(self, workflow_task: WorkflowTask, tuner: AjetTuner) -> WorkflowOutput:
        given = tuner.as_oai_baseurl_apikey()
        asked = {"role": "user", "content": workflow_task.task.main_query}
        answer = requests.post(
            f"{given.base_url}/chat/completions",
            json={"model": "any", "messages": [asked]},
            headers={"Authorization": f"Bearer {given.api_key}"},
        )
        said = answer.json()["choices"][0]["message"]["content"]
        return WorkflowOutput(reward=None, metadata={"final_answer": said})


class IsOdd(BaseJudge):
    def __init__(self, config):
        self.config = config

    def compute_reward(self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput) -> tuple:
        assert workflow_task.task.metadata["answer"]
        is_odd = len(workflow_output.metadata["final_answer"]) % 2 == 1
        return float(is_odd), is_odd
