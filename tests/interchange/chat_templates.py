"""Small templates with the features of those that models have, and conversations."""

from __future__ import annotations

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
HELLO = {"role": "user", "content": "Hello <b> \u00e9\u4f60  "}
CONVERSATIONS = {
    "question": [HELLO],
    "system": [{"role": "system", "content": " Be brief.\n"}, HELLO],
    "turns": [HELLO, {"role": "assistant", "content": " Hi "}, HELLO],
    "wrong order": [HELLO, HELLO],
}
TEMPLATES = {
    # A default system message.
    "smollm2": """{% for message in messages %}{% if loop.first and \
messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are helpful.<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}""",
    # Slices of messages, whitespace control, names that are set or not.
    "llama3": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + \
message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}""",
    # A namespace, a reversed loop, methods of strings, tojson, tools that are none.
    "qwen3": """{%- if tools %}{{- tools | tojson }}{%- endif %}
{%- set ns = namespace(last=messages|length - 1, found=false) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if not ns.found and message.role == "user" and not(message.content\
.startswith('<tool>')) %}
        {%- set ns.found = true %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if loop.index0 > ns.last %}{% continue %}{% endif %}
    {{- '<|im_start|>' + message.role + '\\n' + \
message.content.strip().split('</t>')[-1] }}
    {{- '<|im_end|>\\n' + message | tojson + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
""",
    # Refusals, another name of a role, a macro.
    "gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}\
{{ raise_exception('System role not supported') }}{% endif %}
{% macro turn(role, text) %}{{ '<start_of_turn>' + role + '\\n' + text | trim + \
'<end_of_turn>\\n' }}{% endmacro %}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate') }}
    {% endif %}
    {{ turn('model' if message['role'] == 'assistant' else message['role'], \
message['content']) }}
{% endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}""",
    # Instructions in brackets, the tag generation, a comment.
    "mistral": """{#- of messages #}{{ bos_token }}
{%- for message in messages %}
{% if message['role'] == 'user' %}
[INST] {{ message['content'] }} [/INST]
{%- elif message['role'] == 'assistant' %}
{% generation %} {{ message['content'] | trim }}{{ eos_token }}{% endgeneration %}
{%- else %}
    {{- raise_exception('Only user and assistant roles are supported!') }}
{%- endif %}
{%- endfor %}""",
}
