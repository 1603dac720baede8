"""The third training: a circuit that carries what `shares.py` found. usage: carry.py CHECKPOINT.pt OUT_DIR MINUTES SHARES.pkl table|heads|more

`table`: the tokens' mean shares are written into the embedding, where two heads of the last layer read; a loss on every token of a text asks
what these read for the token's share in this text, of all eight policies, so that the layers below learn what neighbours change.
`heads`: before the first step, these two heads are made to look at the text alone, at each token alike, the one shrunk as by 4 more tokens, the
other as by 60, so that a sum of both is the log-odds, short text or long; it is written into eight directions that the last position has left
free. Losses of their own keep each part at its work; what the model is judged by stays as in `distil.py`."""
import math, os, pickle, random, sys, numpy as np, torch, torch.nn as nn, torch.nn.functional as F
import data, distil, train as T
from distil import CLAMP, D, MAX
from model import Nano
SIZES = {(0, 24): (16, .26), (0, 48): (12, .30), (30, 90): (7, .24), (80, 180): (3, .12), (150, MAX): (2, .08)}                       # tokens: texts behind one policy, share of steps
END, NEAR, FAR, LOOK = T.TOK.token_to_id("<|end|>"), 4, 60, D + 31                                                                    # LOOK: the key that tells the text from the rest
class Shares:
    def __init__(s, path):
        with open(path, "rb") as f: b = pickle.load(f)
        s.ids, s.z = b["ids"], b["log_odds"].clip(-CLAMP, CLAMP); std = np.concatenate(b["share"]).astype(np.float32).std(0); s.c = [(x.astype(np.float32) / std).clip(-4, 4) for x in b["share"]]; s.table = (b["table"] / std).clip(-4, 4)
        fits = lambda i, c: c[0] <= len(s.ids[i]) <= c[1] and len(s.ids[i]); s.own = {n: {c: [i for i, p in enumerate(b["policy"]) if p == n and fits(i, c)] for c in SIZES} for n in data.ALL}; s.all = {c: [i for i in range(len(s.ids)) if fits(i, c)] for c in SIZES}
    def pick(s, rng, n, c, M): return [rng.choice(s.own[n][c] if rng.random() < .85 and s.own[n][c] else s.all[c]) for _ in range(M)]
    def batch(s, rng, kw, pkw, B=10):
        """a batch as in `distil.py`; and of each text the tokens' shares [N, S, 8] and log-odds of all policies [N, 8], NaN where there are none"""
        c = rng.choices(list(SIZES), [x[1] for x in SIZES.values()])[0]; hi, M = c[1], SIZES[c][0]; P, G, Z, at = [], [], [], []
        for _ in range(B):
            if rng.random() < pkw and hi <= 100:
                pol, made = T.kw_group(rng, kw, 1, 0, hi, M); g = [item for item, _ in made]; Z += [CLAMP if y else -CLAMP for _, y in made]; at += [None] * M
            else:
                n = distil.policy(rng, hi); pol, item = distil.real_group(rng, n, .15); ix = s.pick(rng, n, c, M); z = [float(s.z[i, data.ALL.index(n)]) for i in ix]; g = [item(s.ids[i].tolist(), v) for i, v in zip(ix, z)]; Z += z; at += ix
            P.append(T.prefix(pol)); G.append(g)
        b = T.collate(P, G); suf = b[2]; c8 = torch.full((*suf.shape, 8), math.nan); z8 = torch.full((len(suf), 8), math.nan)
        for k, i in enumerate(at):
            if i is not None: c8[k, :len(s.c[i])] = torch.from_numpy(s.c[i]); z8[k] = torch.from_numpy(s.z[i])
        return b, torch.tensor(Z), c8, z8
    def ideal(s, total, n): """[2, ...]: what the two heads are to say of n tokens whose shares add up to `total`"""; return torch.stack([total / (n + NEAR), total / (n + FAR)])
def said(m, lp):
    """what the heads read of each token [N, S, 8], and say at the last position [2, N, 8]"""
    _, v, o, _ = m.seen; h = o[torch.arange(len(lp)), lp - 1]; return v[..., D:D + 8], torch.stack([h[:, k * D:k * D + 8] for k in (2, 3)])
def places(pre, pl, suf):
    """of all positions, prefixes first: those of texts, and those that are no padding"""
    a = torch.arange(suf.shape[1])[None]; text = a < (suf == END).float().argmax(1)[:, None]; kept = torch.arange(pre.shape[1])[None] >= (pre.shape[1] - pl)[:, None]
    return torch.cat([torch.zeros(pre.numel(), dtype=torch.bool), text.view(-1)]), torch.cat([kept.view(-1), (suf != 0).view(-1)])
@torch.no_grad()
def write_table(m, table):
    V = m.layers[3].v[D:D + 8] * m.layers[3].ln1; Q, _ = torch.linalg.qr(V.t()); P = torch.linalg.pinv(V); m.emb -= m.emb @ Q @ Q.t(); m.emb += 1.2 * torch.tensor(table) @ (P / P.norm(dim=0)).t()
@torch.no_grad()
def look_at_text(m, batches):
    """a logistic regression tells tokens of texts from all others by what the last layer sees; two hardly turning pairs of the heads' keys hold it"""
    l = m.layers[3]; H, Y = [], []
    for (pre, pl, suf, M, *_), _, _, _ in batches: m(pre, pl, suf, M); text, real = places(pre, pl, suf); k = real & (torch.rand(len(real)) < .2); H.append(m.seen[0][k]); Y.append(text[k])
    H, Y = torch.cat(H), torch.cat(Y).double(); A = torch.cat([H, torch.ones(len(H), 1)], 1).double(); w = torch.where(Y > 0, .5 / Y.mean(), .5 / (1 - Y.mean())); u = torch.zeros(129).double()
    for _ in range(12): p = torch.sigmoid(A @ u); u -= torch.linalg.solve((A.t() * (w * p * (1 - p) + 1e-6)) @ A + .1 * torch.eye(129), A.t() @ (w * (p - Y)) + .01 * u)
    p = A @ u; print("texts told from the rest", float(((p > 0) == (Y > 0)).double().mean())); hi, lo = p[Y > 0].median(), p[Y == 0].median(); u[128] -= (hi + lo) / 2; u = (u * 6 / (hi - lo)).float()
    l.k[D:] = torch.randn(D, 128) * .01; l.kb[D:] = 0; l.q[2 * D:] = torch.randn(2 * D, 128) * .01; l.qb[2 * D:] = 0; l.k[LOOK - 1:LOOK + 1] = u[:128]; l.kb[LOOK - 1:LOOK + 1] = u[128]
    for h in (2, 3): l.qb[h * D + 30:h * D + 32] = 8 / m.mscale ** 2
    l.sink[2:] = torch.tensor([6 + math.log(NEAR), 6 + math.log(FAR)])
@torch.no_grad()
def speak(m, batches, R):
    """log-odds by R [near, far and one; policies] from what the heads say, into the directions that hold least at the last position"""
    l = m.layers[3]; l.o[:, 2 * D:] = 0; x = []
    for (pre, pl, suf, M, _, lp, _), _, _, _ in batches: m(pre, pl, suf, M); x.append(m.seen[3][torch.arange(len(suf)), lp - 1])
    x = torch.cat(x); free = torch.linalg.eigh(x.t() @ x / len(x))[1][:, :8]; l.o[:, 2 * D:] = torch.randn(128, 2 * D) * .01; l.ob += free @ R[2]
    for k, h in enumerate((2, 3)): l.o[:, h * D:h * D + 8] = free * R[k]
def main(src, out, minutes, path, stage):
    E = lambda k, d: float(os.environ.get(k, d)); os.makedirs(out, exist_ok=True); torch.manual_seed(5); rng = random.Random(int(E("SEED", 5))); X = Shares(path); kw = T.KW(); m = Nano(); m.load_state_dict(torch.load(src, weights_only=True)); heads = stage != "table"; l = m.layers[3]; pkw = E("PKW", .25)
    some = lambda n, pkw: [X.batch(rng, kw, pkw) for _ in range(n)]
    if stage == "heads": look_at_text(m, some(20, .3))
    elif not heads: write_table(m, X.table)
    with torch.no_grad():                                                  # how strongly the heads read a share, and the log-odds that heads at their best would give
        vc = cc = 0.
        for (pre, pl, suf, M, _, lp, _), _, c8, _ in some(12, 0): m(pre, pl, suf, M); k = ~c8[..., 0].isnan(); v = said(m, lp)[0][k]; vc = vc + (v * c8[k]).sum(0); cc = cc + (c8[k] ** 2).sum(0)
        reads = vc / cc; reads = reads.sign() * reads.abs().clamp_min(.3); I = X.ideal(torch.tensor(np.array([c.sum(0) for c in X.c])), torch.tensor([[len(c)] for c in X.c])) * reads; R = torch.stack([torch.linalg.lstsq(torch.stack([*I[:, :, j], torch.ones(len(X.c))], 1), torch.tensor(X.z[:, j:j + 1])).solution[:, 0] for j in range(8)], 1)
    if stage == "heads": speak(m, some(10, .3), R)
    R = nn.Parameter(R)
    def step():
        (pre, pl, suf, M, w, lp, pb), z, c8, z8 = X.batch(rng, kw, pkw); h, pr = m(pre, pl, suf, M, probe=True); tot, figures = distil.losses(m, h, pr, suf, w, lp, pb, z); v, s = said(m, lp); k = ~c8[..., 0].isnan(); of = ~z8[:, 0].isnan(); own = {}
        if of.any(): own["token"] = F.smooth_l1_loss(v[k] / reads, c8[k]), E("TOKEN", 1)
        if of.any() and heads:
            own["all"] = F.smooth_l1_loss(R[0] * s[0, of] + R[1] * s[1, of] + R[2], z8[of]), .5; own["heads"] = F.smooth_l1_loss(5 * s[:, of] / reads, 5 * X.ideal(torch.nan_to_num(c8).sum(1), k.sum(1, keepdim=True))[:, of]), 2.
        if heads: text, real = places(pre, pl, suf); look = m.seen[0] @ l.k[LOOK] + l.kb[LOOK]; p = pre.numel(); own["text"] = .5 * F.softplus(-look[text]).mean() + .25 * F.softplus(look[p:][real[p:] & ~text[p:]]).mean() + .25 * F.softplus(look[:p][real[:p]]).mean(), .3
        return tot + sum(a * b for a, b in own.values()), figures | {k: a.item() for k, (a, _) in own.items()}, int(pl.sum()) + int((suf != 0).sum()), len(suf)
    distil.run(m, out, minutes, E("LR", 1.5e-3), step, [R])
if __name__ == "__main__": main(sys.argv[1], sys.argv[2], float(sys.argv[3]), *sys.argv[4:])
