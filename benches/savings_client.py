"""An app that uses the official client and knows nothing of the gateway but base URL and key, both from the environment."""

import json
import os
import sys

import openai

client = openai.OpenAI()
with open(sys.argv[1]) as file:
    prompts = json.load(file)
answers = [
    client.chat.completions.create(model=os.environ["MODEL"], messages=[{"role": "user", "content": prompt}])
    for prompt in prompts
]
print(json.dumps([answer.id for answer in answers]))
