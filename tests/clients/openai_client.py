"""What an app does with the official `openai` client, against BASE_URL with KEY; prints a line for each case."""

import os

import openai

client = openai.OpenAI(base_url=os.environ["BASE_URL"], api_key=os.environ["KEY"], max_retries=0)
ask = [{"role": "user", "content": "Say hello to the client."}]


def done(name):
    print("ok", name)


whole = client.chat.completions.create(model="acme/good", messages=ask)
assert whole.choices[0].message.content and whole.choices[0].finish_reason == "stop"
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
done("whole")

chunks = list(client.chat.completions.create(model="acme/good", messages=ask, stream=True, temperature=1))
text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
assert text == whole.choices[0].message.content, text
assert [chunk.usage is not None for chunk in chunks].count(True) == 1
done("streamed")

tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]
called = client.chat.completions.create(model="acme/good", messages=ask, tools=tools)
call = called.choices[0].message.tool_calls[0]
assert called.choices[0].finish_reason == "tool_calls" and call.function.name == "weather"
back = ask + [called.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
assert client.chat.completions.create(model="acme/good", messages=back, tools=tools).choices[0].message.content
done("tools round trip")

with client.chat.completions.stream(model="acme/good", messages=ask, tools=tools) as stream:
    final = stream.get_final_completion()
assert final.choices[0].message.tool_calls[0].function.arguments == call.function.arguments
done("streamed tool call")

schema = {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": {"type": "object", "properties": {"simulated": {"type": "boolean"}}, "required": ["simulated"], "additionalProperties": False}}}
structured = client.chat.completions.create(model="acme/good", messages=ask, response_format=schema)
assert structured.choices[0].message.content == '{"simulated":true}'
done("JSON schema")

pixel = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": pixel}}]
assert client.chat.completions.create(model="acme/good", messages=[{"role": "user", "content": parts}]).choices[0].message.content
done("image part")

cases = [
    (openai.NotFoundError, lambda: client.chat.completions.create(model="acme/nothing", messages=ask)),
    (openai.BadRequestError, lambda: client.chat.completions.create(model="acme/good", messages=ask, temperature=9)),
    (openai.RateLimitError, lambda: client.chat.completions.create(model="acme/dead", messages=ask)),
    (openai.AuthenticationError, lambda: client.with_options(api_key="sk-wrong").chat.completions.create(model="acme/good", messages=ask)),
]
for expected, call in cases:
    try:
        call()
    except expected as error:
        assert error.body["message"], error
    else:
        raise AssertionError(f"no {expected.__name__}")
done("errors")
