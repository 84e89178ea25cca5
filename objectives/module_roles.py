"""What a layer does in its block, from its name and from the part of the block that holds it."""

from __future__ import annotations

import re

from objectives.modules import Role

ATTENTION = re.compile(r"attn|attention|(^|[._])att($|[._])")
#: MobileBERT's narrows what its attention reads, and is called ``bottleneck.attention``.
BOTTLENECK = "bottleneck"
MLP = re.compile(r"(^|[._])(mlps?|ffns?|ff|feed_forward|experts?|moe)($|[._])")

#: (part of the block, names, role): the first line that matches decides; "" stands for any part.
NAMES: list[tuple[str, str, Role]] = [
    ("mlp", r"gate_up_proj|wi|input_linear", "gate_up"),
    ("mlp", r"gate_proj|w1|w_0|proj_up_gate", "gate"),
    ("mlp", r"up_proj|c_fc|fc1|fc_in|lin1|w3|w_1|layer_1|linear_1|proj_up|key|intermediate|ffn\.0", "up"),
    ("mlp", r"down_proj|c_proj|fc2|fc_out|lin2|w2|w_out|layer_2|linear_2|proj_down|value|output|wo|ffn\.2", "down"),
    ("mlp", r"dense_h_to_4h|dense1", "up"),
    ("mlp", r"dense_4h_to_h|dense2|output_linear", "down"),
    ("attention", r"input_linear", "query"),
    ("attention", r"out_proj|post_proj|c_proj|wo|o|output|output_linear|proj|dense", "attention_output"),
    ("attention", r"in_proj", "qkv"),
    ("", r"qkv|qkv_proj|query_key_value|c_attn|wqkv|in_proj_qkvz?", "qkv"),
    ("", r"kv_proj|kv_a_proj_with_mqa|kv_b_proj", "qkv"),
    ("", r"q|q_proj|query|query_proj|query_global|q_lin|q_head|wq|project_q|q_[ab]_proj|q_gate_proj", "query"),
    ("", r"k|k_proj|key|key_proj|key_global|k_lin|k_head|wk|project_k", "key"),
    ("", r"v|v_proj|value|value_proj|value_global|v_lin|v_head|wv|project_v|v_proj_\w+", "value"),
    ("", r"o_proj|out_lin|attention_out|o_b_proj", "attention_output"),
    ("", r"up_proj|fc1|lin1|w3|intermediate|ffn", "up"),
    ("", r"down_proj|fc2|lin2|w2|output|ffn_output", "down"),
    ("", r"w1", "gate"),
    # T5, whose layer of the MLP is called after its activation: with a gate wi_0 and wi_1, without one wi.
    ("", r"wi_0", "gate"),
    ("", r"wi|wi_1", "up"),
    ("", r"wo", "down"),
]


def role_of(inside: str) -> Role:
    """``inside`` is the path in the block, as ``self_attn.q_proj``. "qkv" is any fusion of two or three of them."""
    *around, leaf = inside.lower().split(".")
    if BOTTLENECK in around:
        return "other"
    # BERT's ``output.dense`` and Moshi's ``q_proj.linear`` carry their meaning one level up.
    if leaf in ("dense", "linear") and around and not ATTENTION.search(around[-1]):
        leaf = around.pop()
    if leaf.isdigit() and around:
        leaf = f"{around[-1]}.{leaf}"
    holder = ".".join(around)
    part = "attention" if ATTENTION.search(holder) else "mlp" if MLP.search(holder) else ""
    for where, names, role in NAMES:
        if where in ("", part) and re.fullmatch(names, leaf):
            return role
    return "other"
