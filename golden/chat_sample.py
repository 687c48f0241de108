"""Conversations, and chat templates written for this test: each uses what a published family's template uses."""

from __future__ import annotations

from typing import Any

CLOCK = "2026-03-04T05:06:07"

_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather <now> & later – für „Köln“",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]

CHATS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Hi"}]},
    {"messages": [{"role": "system", "content": "Be brief.\n"}, {"role": "user", "content": "  What is 2 + 2?  "}]},
    {
        "messages": [
            {"role": "user", "content": "Name a colour."},
            {"role": "assistant", "content": "<think>\nblue?\n</think>\n\nBlue."},
            {"role": "user", "content": "Another, größer – 日本語 🙂"},
        ]
    },
    {
        "messages": [
            {"role": "system", "content": "You answer in JSON."},
            {"role": "user", "content": "<b>a & b</b> \"c\" 'd' {{ e }} {% f %}"},
            {"role": "assistant", "content": "{}"},
        ]
    },
    {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": " one "}, {"type": "image"}, {"type": "text", "text": "two"}],
            }
        ]
    },
    {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
    {"messages": [{"role": "assistant", "content": "first"}]},
    {"messages": [{"role": "user", "content": "Weather?"}], "tools": _TOOLS, "variables": {"enable_thinking": False}},
    {
        "messages": [
            {"role": "user", "content": "Weather in Köln?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln"}}}],
            },
            {"role": "tool", "name": "weather", "content": "7 °C"},
        ],
        "tools": _TOOLS,
    },
    {"messages": [{"role": "user", "content": ""}]},
]

_CHATML = """\
{% for message in messages %}
    {% if loop.first and message.role != 'system' %}
        {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
    {% endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {% if message.content is string %}
        {{- message.content }}
    {% else %}
        {% for part in message.content %}
            {{- part.text if part.type == 'text' else '[' ~ part.type ~ ']' }}
        {% endfor %}
    {% endif %}
    {{- '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant' }}
{% endif %}
"""

_TURNS = """\
{{ bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set prefix = messages[0].content + '\\n\\n' %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set prefix = '' %}
    {%- set rest = messages %}
{%- endif %}
{%- for message in rest %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('user and assistant must take turns, starting with user') }}
    {%- endif %}
    {%- set who = 'model' if message.role == 'assistant' else message.role %}
    {{- '<start_of_turn>' + who + '\\n' + (prefix if loop.first else '') }}
    {%- if message.content is string %}
        {{- message.content | trim }}
    {%- elif message.content is iterable %}
        {%- for part in message.content %}
            {%- if part.type == 'image' %}
                {{- '<start_of_image>' }}
            {%- elif part.type == 'text' %}
                {{- part.text | trim }}
            {%- endif %}
        {%- endfor %}
    {%- else %}
        {{- raise_exception('content must be text or a list of parts') }}
    {%- endif %}
    {{- '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\\n' }}
{%- endif %}
"""

_HEADERS = """\
{{- bos_token }}
{%- set date = strftime_now('%d %b %Y') if strftime_now is defined else 'unknown' %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date + '\\n' }}
{%- if tools is not none %}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) }}
        {{- '\\n\\n' }}
    {%- endfor %}
{%- endif %}
{%- macro body(message) %}
    {%- if message.tool_calls is defined %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}
        {{- '}' }}
    {%- elif message.content is mapping or message.content is iterable and message.content is not string %}
        {{- message.content | tojson }}
    {%- else %}
        {{- message.content | trim }}
    {%- endif %}
{%- endmacro %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + body(message) + '<|eot_id|>' }}
        {%- continue %}
    {%- endif %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
    {%- generation %}
        {{- body(message) + '<|eot_id|>' }}
    {%- endgeneration %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

_THINKING = """\
{%- set ns = namespace(last=-1, found=false) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if not ns.found and message.role == 'user' and message.content is string %}
        {%- set ns.last = index %}
        {%- set ns.found = true %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if '</think>' in content %}
        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- if loop.index0 > ns.last %}
            {%- set content = '<think>\\n' ~ thought ~ '\\n</think>\\n\\n' ~ content %}
        {%- endif %}
    {%- endif %}
    {{- '<|im_start|>%s\\n%s<|im_end|>\\n' | format(message.role, content) }}
    {%- if message.role == 'user' and (loop.last or messages[loop.index0 + 1].role == 'user') %}
        {{- '(' ~ loop.index ~ ' of ' ~ loop.length ~ ')' }}
    {%- endif %}
{%- endfor %}
{%- if tools %}
    {{- tools | map(attribute='function') | map(attribute='name') | join(', ') | upper }}
{%- endif %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

TEMPLATES: dict[str, str] = {"chatml": _CHATML, "turns": _TURNS, "headers": _HEADERS, "thinking": _THINKING}
"""Name → Jinja2 source: ChatML as in SmolLM2; turns as in Gemma; headers as in Llama 3; thinking as in Qwen 3."""
