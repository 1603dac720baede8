"""What the third training is to carry. usage: shares.py OUT.pkl TEXTS_PER_POLICY STRANGE_TEXTS OTHERS.json EMBEDDER_DIR

Takes the two regressions of `distil.py` and a third one, over sentence embeddings of a BERT-class model folder. Makes texts as `distil.py`
does, a quarter of them with some words exchanged for others of the training split, and strange ones, as many for each policy: short, a tenth to
a half of the words exchanged, every second one for any word of the tokenizer's, so that the model meets all of them. Takes the texts of
`others.py` besides, each for the policy whose log-odds are highest or for any. It gives for each the log-odds of all eight policies (mean of the
three) and each token's share in them: the weights of the word and character n-grams that end in it, of its piece, and what its hidden state adds
to the embedder's log-odds, which are a mean over tokens; a text's log-odds are about the sum of its n tokens' shares over n to the power of .65.
The mean share of every token of the vocabulary is the table that `carry.py` writes into the embedding."""
import json, pickle, random, re, sys, time, numpy as np, torch, torch.nn.functional as F
import data, distil, train as T
from eval import labelled, regression
POWER, PIECES = .65, 8183                                        # of the length; tokens that are no special ones
class Embedder:
    """mean of the last hidden states, at most 256 pieces, of length one; each text once"""
    def __init__(s, folder): from transformers import AutoModel, AutoTokenizer; s.tok = AutoTokenizer.from_pretrained(folder); s.m = AutoModel.from_pretrained(folder).eval(); s.done = {}
    @torch.no_grad()
    def states(s, texts):
        """of 64 texts at a time, by length: their places, last hidden states, mask [.., .., 1], spans of characters"""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for a in range(0, len(order), 64): ix = order[a:a + 64]; b = s.tok([texts[i] for i in ix], truncation=True, max_length=256, padding=True, return_tensors="pt", return_offsets_mapping=True); at = b.pop("offset_mapping").numpy(); yield ix, s.m(**b).last_hidden_state, b["attention_mask"][..., None].float(), at
    def __call__(s, texts):
        new = sorted({t for t in texts if t not in s.done})
        for ix, h, k, _ in s.states(new): s.done.update(zip((new[i] for i in ix), F.normalize((h * k).sum(1) / k.sum(1), dim=-1).numpy()))
        return np.stack([s.done[t] for t in texts])
    fit_transform = transform = __call__                         # a vectoriser that has nothing to fit
    def shares(s, texts, encodings, w):
        """of each text [tokens, policies]: by weights w of the embedding [size, policies], what a token adds to the log-odds, times their number; what belongs to no character is spread evenly"""
        out = [None] * len(texts)
        for ix, h, k, at in s.states(texts):
            n = k.sum(1)
            adds = ((h @ w) * k / ((h * k).sum(1) / n).norm(dim=1)[:, None, None]).numpy()
            for i, x, spans, m in zip(ix, adds, at, n[:, 0].int().tolist()):
                e = encodings[i]; o = out[i] = np.zeros((len(e.ids), w.shape[1]), np.float32); own = np.zeros(len(texts[i]) + 1, int)
                for j, (c, d) in enumerate(e.offsets): own[c:d] = j
                if not len(o): continue
                mine = spans[:m, 1] > spans[:m, 0]; np.add.at(o, own[spans[:m, 1][mine] - 1], x[:m][mine]); o += x[:m][~mine].sum(0) / len(o); o *= len(o) / m
        return out
class Weights:
    """weights of n-grams and pieces, of all policies, laid on the tokens of a text"""
    def __init__(s, teacher):
        s.words, s.chars, rows = {}, {}, ([], [])
        for j, n in enumerate(data.ALL):
            v, c = teacher.of[n][0]; at = 0
            for (_, part), index, R in zip(v.transformer_list, (s.words, s.chars), rows):
                w = c.coef_[0][at:at + len(part.vocabulary_)] * part.idf_; at += len(w)
                for gram, i in part.vocabulary_.items():
                    r = index.setdefault(gram, len(index))
                    if r == len(R): R.append(np.zeros(8, np.float32))
                    R[r][j] = w[i]
        s.W, s.C = map(np.array, rows); s.P = np.concatenate([distil.piece_weights(teacher), np.zeros((8192 - PIECES, 8))]).astype(np.float32); s.known = {}
    def word(s, w):
        """[characters, 8]: weights of the word's character n-grams, where they end"""
        if w not in s.known:
            p = f" {w} "; r = s.known[w] = np.zeros((len(w), 8), np.float32)
            for n in (2, 3, 4):
                for o in range(max(1, len(p) - n + 1)):
                    if (i := s.chars.get(p[o:o + n])) is not None: r[min(max(o + n - 2, 0), len(w) - 1)] += s.C[i]
        return s.known[w]
    def __call__(s, text, e):
        """[tokens, 3, 8]: word n-grams, character n-grams, pieces"""
        out = np.zeros((len(e.ids), 3, 8), np.float32); low = text.lower() if len(text.lower()) == len(text) else text; own = np.zeros(len(text) + 1, int); last = None
        for i, (a, b) in enumerate(e.offsets): own[a:b] = i
        for m in re.finditer(r"\S+", low): r = s.word(m.group()); np.add.at(out[:, 1], own[m.start():m.start() + len(r)], r)
        for m in re.finditer(r"(?u)\b\w\w+\b", low):
            for gram in [m.group()] + ([f"{last} {m.group()}"] if last else []):
                if (i := s.words.get(gram)) is not None: out[own[m.end() - 1], 0] += s.W[i]
            last = m.group()
        out[:, 2] = s.P[e.ids]; return out
def main(out, texts, strange, others, folder):
    t0 = time.time(); log = lambda *a: print(f"{time.time() - t0:6.0f}s", *a, flush=True); R = [r for r in data.load_real() if not data.is_test(r["text"])]; teacher = distil.Teacher(R); share = Weights(teacher); X = distil.Texts(R, teacher); embed = Embedder(folder); rng = random.Random(9); third = {}; r1 = random.Random(1)
    for n in data.ALL: third[n] = regression(embed, *labelled(R, n, r1))
    words = sorted({w for r in R for w in r["text"].split() if 2 <= len(w) <= 20})
    def text(n):
        t = X.text(rng, n)
        if rng.random() < .25: w = t.split(" "); p = rng.choice([.1, .25]); t = " ".join(rng.choice(words) if rng.random() < p else x for x in w)
        return t
    of_policy = {n: [[x for k, d in X.by[n].items() if k[0] in ys for i in d for x in X.all[i].split() if 2 <= len(x) <= 20] for ys in ((0, 1, "weak"), (1,))] for n in data.ALL}
    vocabulary = sorted({v for i in range(PIECES) if re.fullmatch(r"[A-Za-z][a-z']{2,}", v := T.TXT.decode([i]).strip()) and len(T.enc(" " + v)) == 1})
    def odd(n):
        x = (X.one(rng, n) if rng.random() < .5 else X.text(rng, n)).split(" "); p = rng.choice([.1, .2, .35, .5])
        if len(x) > 45: a = rng.randrange(len(x) - 20); x = x[a:a + rng.randint(8, 45)]
        def other(v): u = rng.random(); r = rng.choice(vocabulary if u < .5 else of_policy[n][u >= .75]); return r.capitalize() if v[:1].isupper() and rng.random() < .5 else r
        return " ".join(other(v) if rng.random() < p else v for v in x)
    def cut(t): e = T.TXT.encode(t); return (t, e) if len(e.ids) <= distil.MAX else (lambda d: (d, T.TXT.encode(d)))(T.TXT.decode(e.ids[:distil.MAX]))
    made = [(n, *cut(text(n))) for n in data.ALL for _ in range(texts)] + [m for n in data.ALL for _ in range(strange // 8) if 2 <= len((m := (n, *cut(odd(n))))[2].ids) <= 120]
    with open(others) as f: made += [m for t in json.load(f) if len((m := (None, *cut(t)))[2].ids)]
    tx, en = [m[1] for m in made], [m[2] for m in made]; N = np.array([max(len(e.ids), 1) for e in en])[:, None]; w = torch.tensor(np.stack([third[n].coef_[0] for n in data.ALL], 1), dtype=torch.float32)
    whole = embed.shares(tx, en, w); Zm = np.stack([x.sum(0) for x in whole]) / N + [third[n].intercept_[0] for n in data.ALL]; Z = (2 * np.stack([teacher.logits(n, tx) for n in data.ALL], 1) + Zm) / 3; log("log-odds of", len(tx), "texts")
    parts = [share(t, e) for t, e in zip(tx, en)]; sums = np.array([[*p.sum(0), x.sum(0)] for p, x in zip(parts, whole)]) / N[..., None] ** POWER; fit = np.zeros((5, 8))
    for j, n in enumerate(data.ALL): A = np.c_[sums[:, :, j], np.ones(len(N))]; fit[:, j] = np.linalg.lstsq(A, Z[:, j], rcond=None)[0]; log(n, "log-odds from shares: correlation", round(np.corrcoef(A @ fit[:, j], Z[:, j])[0, 1], 4))
    of = lambda p, x: (np.einsum("tkj,kj->tj", p, fit[:3]) + x * fit[3]).astype(np.float32); c = [of(p, x) for p, x in zip(parts, whole)]; alone = [(T.TXT.decode([i]), i) for i in range(PIECES)]; alone = [(t, e) for t, i in alone if (e := T.TXT.encode(t)).ids == [i]]
    S, n = np.zeros((8192, 8)), np.zeros(8192)
    for (t, e), x in zip(alone, embed.shares(*zip(*alone), w)): S[e.ids] += 3 * of(share(t, e), x)     # a rare token's share leans on what it adds by itself
    for e, x in zip(en, c): np.add.at(S, e.ids, x); np.add.at(n, e.ids, 1)
    policy = [m[0] or data.ALL[int(z.argmax()) if rng.random() < .6 else rng.randrange(8)] for m, z in zip(made, Z)]
    with open(out, "wb") as f: pickle.dump(dict(policy=policy, ids=[np.array(e.ids, np.int16) for e in en], log_odds=Z.astype(np.float32), share=[x.astype(np.float16) for x in c], table=(S / (n[:, None] + 3)).astype(np.float32)), f)
if __name__ == "__main__": main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
