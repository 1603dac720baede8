"""Parity with Hugging Face transformers: fills eval.csv and golden.safetensors for the texts and prompts in them; by itself, after the weights have changed. usage: again.py MODEL_DIR OUT_JSON"""
import csv, json, os, sys, numpy as np, torch, torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Mxfp4Config
import train as T, eval as E
from export import load_released
def main(D, out):
    hf = AutoModelForCausalLM.from_pretrained(D, quantization_config=Mxfp4Config(dequantize=True), dtype=torch.bfloat16, attn_implementation="eager").float().eval(); m = load_released(D)
    R = list(csv.DictReader(open(D + "/eval.csv", newline="", encoding="utf-8"))); pol = {n: open(f"{D}/policies/{n}.md", encoding="utf-8").read().removesuffix("\n") for n in dict.fromkeys(r["policy"] for r in R)}; d = dl = 0.; same = 0
    with torch.no_grad():
        for r in R: r["p_violates"] = float(hf(torch.tensor([T.prefix(pol[r["policy"]]) + T.enc(r["text"]) + E.FORCED])).logits[0, -1, T.LAB].softmax(-1)[1])
        for n, p in pol.items():
            rs = [r for r in R if r["policy"] == n]; tx = [r["text"] for r in rs]; d = max(d, float(np.abs(E.score(m, p, tx) - np.array([r["p_violates"] for r in rs])).max())); rt, rp = E.reason(m, p, tx)
            for r, a, b in zip(rs, rt, rp): r["reason_text"], r["reason_label"] = a, "violates" if b > .5 else "allowed"
        for r in R[::32]:                                            # greedy decode with transformers gives the same rationale
            ids = torch.tensor([T.prefix(pol[r["policy"]]) + T.enc(r["text"]) + T.ASSIST + T.AN]); o = hf.generate(ids, max_new_tokens=32, do_sample=False, eos_token_id=E.END, pad_token_id=hf.config.pad_token_id)[0, ids.shape[1]:].tolist(); o = o[:o.index(E.END)] if E.END in o else o
            same += T.TXT.decode(o, skip_special_tokens=False) == r["reason_text"]
        print("rows", len(R), "max |P(train code) - P(HF)|", d, "same rationale as HF generate", same, "of", len(R[::32])); G = {}
        with safe_open(D + "/golden.safetensors", "pt") as f:
            meta = f.metadata()
            for i in range(6):
                ids = f.get_tensor(f"prompt{i}.input_ids"); o = hf(ids[None].long(), output_hidden_states=True); G[f"prompt{i}.input_ids"] = ids; G[f"prompt{i}.logits"] = o.logits[0, -1].contiguous(); G[f"prompt{i}.hidden"] = torch.stack([h[0, -1] for h in o.hidden_states]).contiguous()
                if len(ids) < 600: h, _ = m(ids[None, :60].long(), torch.tensor([60]), ids[None, 60:].long(), 1); dl = max(dl, float((F.linear(h[0, -1], m.head) - o.logits[0, -1]).abs().max()))
    print("max |logit(train code) - logit(HF)|", dl); save_file(G, D + "/golden.safetensors", metadata=meta)
    with open(D + "/eval.csv", "w", newline="", encoding="utf-8") as f:
        w = csv.DictWriter(f, R[0].keys()); w.writeheader(); w.writerows({**r, "p_violates": f"{r['p_violates']:.6f}"} for r in R)
    json.dump(dict(rows=len(R), p_diff=d, logit_diff=dl, same_generate=same), open(out, "w"))
if __name__ == "__main__": torch.set_num_threads(int(os.environ.get("THREADS", 2))); main(*sys.argv[1:])
