"""The second training: what n-gram classifiers know is taught to the model. usage: distil.py MODEL_DIR|CHECKPOINT.pt OUT_DIR MINUTES

Two logistic regressions a policy (words and characters; pieces of the tokenizer, whatever their case) are fitted to the training split. The
model learns the mean of their log-odds for texts of that split, as they are, cut, with words left out, and put together from two, beside
rationales and keyword policies as before. Before the first step, from a released folder, the second regression is written into eight
directions of the embedding, and two heads of the last layer are set to average them over the text."""
import json, math, os, random, sys, time, numpy as np, torch, torch.nn.functional as F
from sklearn.feature_extraction.text import TfidfVectorizer
import data, policies, train as T
from eval import labelled, ngrams, regression
from export import load_released
from model import Nano
MAX, CLAMP, D = 400, 5., 64                                     # tokens of a text; log-odds; width of a head
def pieces(t): return [str(i) for i in T.enc(t.lower())]
class Teacher:
    def __init__(s, R):
        s.of = {}; rng = random.Random(1)
        for n in data.ALL:
            x, y = labelled(R, n, rng); s.of[n] = [(v, regression(v, x, y)) for v in (ngrams(), TfidfVectorizer(analyzer=pieces, sublinear_tf=True))]
    def logits(s, n, texts): return np.mean([c.decision_function(v.transform(texts)) for v, c in s.of[n]], 0)
def piece_weights(teacher):
    """[pieces of the tokenizer, policies]: weights of the second regression"""
    W = np.zeros((8183, 8)); alike = [T.enc(T.TXT.decode([i]).lower()) for i in range(8183)]
    for j, n in enumerate(data.ALL):
        v, c = teacher.of[n][1]; w = dict(zip(v.get_feature_names_out(), c.coef_[0] * v.idf_))
        for i, ps in enumerate(alike): W[i, j] = sum(w.get(str(p), 0.) for p in ps)
    return W
@torch.no_grad()
def inject(m, teacher):
    W = torch.zeros(8192, 8); W[:8183] = torch.tensor(piece_weights(teacher))
    W = (W / W[W.abs() > 1e-3].std()).clamp(-4, 4); U, Z = torch.linalg.qr(torch.randn(128, 16))[0].t().split(8); m.emb -= m.emb @ U.t() @ U; m.emb += 1.2 * W @ U; l = m.layers[3]
    l.k[D:] = torch.randn(D, 128) * .02; l.q[2 * D:] = torch.randn(2 * D, 128) * .02; l.kb[D:] = 0; l.qb[2 * D:] = 0; l.sink[2:] = 0; l.kb[D + 13:D + 17] = 1.3            # near tokens a little more than far ones; what belongs to the text is learned
    l.v[D:] = torch.randn(D, 128) * .05; l.v[D:D + 8] = 5 * U; l.vb[D:] = 0; l.o[:, 2 * D:] = torch.randn(128, 2 * D) * .01
    for h in (2, 3): l.qb[h * D + 13:h * D + 17] = 1.3; l.qb[h * D + 26:h * D + 32] = 2.; l.o[:, h * D:h * D + 8] = 3 * Z.t()
class Texts:
    def __init__(s, R, teacher):
        s.teacher = teacher; s.all = [r["text"] for r in R]; s.by = {n: {} for n in data.ALL}
        for i, r in enumerate(R):
            for n in data.ALL:
                y = r["lab"].get(n, "weak" if n in r["weak"] else None)
                if y is not None: s.by[n].setdefault((y, r["src"]), []).append(i)
    def one(s, rng, n):
        u = rng.random(); d = s.by[n]; want = 1 if u < .42 else 0 if u < .8 else "weak" if u < .92 else None
        if want is None: return rng.choice(s.all)
        ks = [k for k in d if k[0] == want]; return s.all[rng.choice(d[rng.choices(ks, [len(d[k]) ** .6 for k in ks])[0]])]
    def text(s, rng, n):
        t = s.one(rng, n); u = rng.random()
        if u < .4: return t
        w = t.split(" ")
        if u > .75: o = s.one(rng, n).split(" "); a, b = rng.randrange(len(w)), rng.randrange(len(o)); w = w[a:a + rng.randint(1, 40)] + o[b:b + rng.randint(1, 40)]
        elif u > .55 and len(w) > 6: a = rng.randrange(len(w) // 2); w = w[a:a + rng.randint(5, len(w))]
        p = rng.choice([0, .1, .3]); return " ".join([x for x in w if rng.random() >= p] or w)
    def group(s, rng, n, M, lo, hi):
        """M texts of one size class with their log-odds; some are longer ones cut"""
        out = []
        while len(out) < M:
            ts = [s.text(rng, n) for _ in range(2 * M)]; ids = [T.enc(t)[:MAX] for t in ts]
            keep = [(t, i) for t, i in zip(ts, ids) if lo <= len(i) <= hi] if rng.random() < .9 else [(T.TXT.decode(i[:hi]), i[:hi]) for i in ids]
            if keep: out += zip([i for _, i in keep], s.teacher.logits(n, [t for t, _ in keep]).tolist())
        return out[:M]
def real_group(rng, n, rationales):
    """a wording of a policy, and how a text with its log-odds becomes an item of it"""
    wi = rng.choice([0, rng.randrange(4)]); pol, codes = policies.render_real(n, wi, *((rng.choice(policies.CODE_ALT[n]) if rng.random() < .6 else None, rng.choice([0, 0, 1, 2, 3])) if rng.random() < .6 else ()))
    return pol, lambda ids, z: (*T.suffix(ids, int(z > 0), T.real_rationale(n, codes, z > 0, "") if rng.random() < rationales else None), None)
def policy(rng, hi): return rng.choices(data.ALL, [1.2, 1.3, 1.1, 1.1, 1., .8 if hi < 100 else 2., .9, 1.3])[0]
def batch(rng, kw, X, pkw, B):
    lo, hi, M = rng.choices([(0, 24, 12), (0, 48, 9), (30, 90, 6), (80, 180, 3), (150, MAX, 2)], [.26, .32, .22, .12, .08])[0]; P, G, Z = [], [], []
    for _ in range(B):
        g = []
        if rng.random() < pkw and hi <= 100:
            pol, made = T.kw_group(rng, kw, 1, 0, hi, M); g = [item for item, _ in made]; Z += [CLAMP if y else -CLAMP for _, y in made]
        else:
            n = policy(rng, hi); pol, item = real_group(rng, n, .2)
            for ids, z in X.group(rng, n, M, lo, hi): g.append(item(ids, z)); Z.append(max(-CLAMP, min(CLAMP, z)))
        P.append(T.prefix(pol)); G.append(g)
    return (*T.collate(P, G), torch.tensor(Z))
def losses(m, h, pr, suf, w, lp, pb, z):
    """what every step is judged by: rationales, log-odds, marked words; and figures of the log"""
    n = torch.arange(len(suf)); w[n, lp] = 0; hh = h[:, :-1]; ww = w[:, 1:]; sel = ww > 0; q = torch.sigmoid(z); ps = pb >= 0; kw = ps.any(1)
    ce = (F.cross_entropy(F.linear(hh[sel], m.head), suf[:, 1:][sel], reduction="none") * ww[sel]).sum() / len(suf)
    lg = F.log_softmax(F.linear(h[n, lp - 1], m.head), -1)[:, T.LAB]; kl = -(q * lg[:, 1] + (1 - q) * lg[:, 0]).mean(); d = lg[:, 1] - lg[:, 0]; hub = F.smooth_l1_loss(d.clamp(-7, 7), z)
    pl = F.cross_entropy(pr[ps], pb[ps], weight=torch.tensor([1., 8., 8.])) if ps.any() else torch.zeros(()); ok = ((d > 0) == (z > 0)).float()
    return ce + 2 * kl + .3 * hub + .2 * pl + .01 * sum(l.aux for l in m.layers), {"other": ce.item(), "log-odds": hub.item(), "same side": ok[~kw].mean().item() if not kw.all() else 1., "keywords": ok[kw].mean().item() if kw.any() else 1.}
def run(m, out, minutes, peak, step, more=()):
    """steps until the minutes are over, experts rounded to MXFP4 in the last 30%; `step` gives a loss, figures, numbers of tokens and of samples; `more`: parameters that are not the model's"""
    slow = lambda k: k.split(".")[-1] in ("q", "k", "qb", "kb", "sink") and not k.startswith(("layers.2.", "layers.3.")); grp = {}
    for k, p in [*m.named_parameters(), *(("", p) for p in more)]: grp.setdefault((.15 if slow(k) else 1., .02 if p.ndim >= 2 and k not in ("emb", "probe", "") and not slow(k) else 0.), []).append(p)
    opt = torch.optim.AdamW([dict(params=p, weight_decay=wd, mul=mu) for (mu, wd), p in grp.items()], lr=1e-3, betas=(.9, .98), eps=1e-8, fused=True)
    t0 = time.time(); n = tok = smp = 0; sums = {}; qat = False; m.train()
    while (fr := (time.time() - t0) / (minutes * 60)) < 1:
        lr = peak * min(1, (n + 1) / 40) * (.5 * (1 + math.cos(math.pi * fr)) * .97 + .03)
        for g in opt.param_groups: g["lr"] = lr * g["mul"]
        if fr > .7 and not qat: T.save(m, out + "/preqat.pt"); m.qat(True); qat = True; print("QAT on", flush=True)
        tot, said, tokens, samples = step(); opt.zero_grad(set_to_none=True); tot.backward(); torch.nn.utils.clip_grad_norm_(m.parameters(), 1.); opt.step(); n += 1; tok += tokens; smp += samples
        for k, v in said.items(): sums[k] = sums.get(k, 0.) + v / 25
        if n % 25 == 0: el = time.time() - t0; print(f"{el:6.0f}s step {n} lr {lr:.1e}", *(f"{k} {v:.3f}" for k, v in sums.items()), f"samples {smp} tok {tok/1e6:.2f}M {tok/el:.0f} tok/s", flush=True); sums = {}
        if n % 150 == 0: T.save(m, out + "/last.pt")
    T.save(m, out + "/final.pt"); total = sum(p.numel() for p in m.parameters()); json.dump(dict(steps=n, tokens=tok, samples=smp, seconds=time.time() - t0, total=total, non_embedding=total - m.emb.numel() - m.head.numel() - m.probe.numel()), open(out + "/train.json", "w"))
def main(src, out, minutes):
    os.makedirs(out, exist_ok=True); torch.manual_seed(5); rng = random.Random(int(os.environ.get("SEED", 5))); R = [r for r in data.load_real() if not data.is_test(r["text"])]; teacher = Teacher(R); kw = T.KW(); X = Texts(R, teacher); pkw = float(os.environ.get("PKW", .3))
    if src.endswith(".pt"): m = Nano(); m.load_state_dict(torch.load(src, weights_only=True))
    else: m = load_released(src); inject(m, teacher)
    def step(): pre, pl, suf, M, w, lp, pb, z = batch(rng, kw, X, pkw, 12); h, pr = m(pre, pl, suf, M, probe=True); return *losses(m, h, pr, suf, w, lp, pb, z), int(pl.sum()) + int((suf != 0).sum()), len(suf)
    run(m, out, minutes, float(os.environ.get("LR", 2e-3)), step)
if __name__ == "__main__": main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
