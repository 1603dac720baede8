"""What the third training is to carry. usage: shares.py OUT.pkl TEXTS_PER_POLICY EMBEDDER_DIR

Takes the two regressions of `distil.py` and a third one, over sentence embeddings of a BERT-class model folder. Makes texts as `distil.py`
does, a quarter of them with some words exchanged for others of the training split, and gives for each the log-odds of all eight policies
(mean of the three) and each token's share in them: the weights of the word and character n-grams that end in it, of its piece, and its part
of the embedder's log-odds (that of the word alone, mended by ridge regression); a text's log-odds are about the sum of its n tokens' shares
over n to the power of .65. The mean share of every token of the vocabulary is the table that `carry.py` writes into the embedding."""
import pickle, random, re, sys, time, numpy as np, torch, torch.nn.functional as F
from scipy.sparse import csr_matrix
from sklearn.linear_model import Ridge
import data, distil, train as T
from eval import labelled, regression
POWER, PIECES = .65, 8183                                        # of the length; tokens that are no special ones
class Embedder:
    """mean of the last hidden states, at most 256 pieces, of length one; each text once"""
    def __init__(s, folder): from transformers import AutoModel, AutoTokenizer; s.tok = AutoTokenizer.from_pretrained(folder); s.m = AutoModel.from_pretrained(folder).eval(); s.done = {}
    @torch.no_grad()
    def __call__(s, texts):
        new = sorted({t for t in texts if t not in s.done}, key=len)
        for a in range(0, len(new), 64):
            b = s.tok(new[a:a + 64], truncation=True, max_length=256, padding=True, return_tensors="pt"); k = b["attention_mask"][..., None].float(); h = s.m(**b).last_hidden_state; s.done.update(zip(new[a:a + 64], F.normalize((h * k).sum(1) / k.sum(1), dim=-1).numpy()))
        return np.stack([s.done[t] for t in texts])
    fit_transform = transform = __call__                         # a vectoriser that has nothing to fit
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
def main(out, texts, folder):
    t0 = time.time(); log = lambda *a: print(f"{time.time() - t0:6.0f}s", *a, flush=True); R = [r for r in data.load_real() if not data.is_test(r["text"])]; teacher = distil.Teacher(R); share = Weights(teacher); X = distil.Texts(R, teacher); embed = Embedder(folder); rng = random.Random(9); third = {}; r1 = random.Random(1)
    for n in data.ALL: third[n] = regression(embed, *labelled(R, n, r1))
    words = sorted({w for r in R for w in r["text"].split() if 2 <= len(w) <= 20})
    def text(n):
        t = X.text(rng, n)
        if rng.random() < .25: w = t.split(" "); p = rng.choice([.1, .25]); t = " ".join(rng.choice(words) if rng.random() < p else x for x in w)
        return t
    def cut(t): e = T.TXT.encode(t); return (t, e) if len(e.ids) <= distil.MAX else (lambda d: (d, T.TXT.encode(d)))(T.TXT.decode(e.ids[:distil.MAX]))
    made = [(n, *cut(text(n))) for n in data.ALL for _ in range(texts)]; tx = [m[1] for m in made]; em = embed(tx); log("embeddings of", len(tx), "texts")
    Zm = np.stack([third[n].decision_function(em) for n in data.ALL], 1); Z = (2 * np.stack([teacher.logits(n, tx) for n in data.ALL], 1) + Zm) / 3; log("log-odds")
    parts = [share(t, e) for _, t, e in made]; N = np.array([max(len(p), 1) for p in parts]); sums = np.array([p.sum(0) for p in parts]) / N[:, None, None] ** POWER
    alone = embed([T.TXT.decode([i]).strip() or "." for i in range(PIECES)]); alone = np.stack([np.r_[third[n].decision_function(alone), np.zeros(8192 - PIECES)] for n in data.ALL], 1); alone -= alone.mean(0)
    bag = csr_matrix((np.repeat(N ** -POWER, [len(p) for p in parts]), (np.repeat(np.arange(len(made)), [len(p) for p in parts]), np.concatenate([m[2].ids for m in made]))), shape=(len(made), 8192)); M = np.zeros((8192, 8)); fit = np.zeros((5, 8))
    for j, n in enumerate(data.ALL):
        q = bag @ alone[:, j]; k = np.polyfit(q, Zm[:, j], 1)[0]; M[:, j] = k * alone[:, j] + Ridge(alpha=1., solver="lsqr").fit(bag, Zm[:, j] - k * q).coef_
        A = np.c_[sums[:, :, j], bag @ M[:, j], np.ones(len(N))]; fit[:, j] = np.linalg.lstsq(A, Z[:, j], rcond=None)[0]; log(n, "log-odds from shares: correlation", round(np.corrcoef(A @ fit[:, j], Z[:, j])[0, 1], 4))
    of = lambda p, ids: (np.einsum("tkj,kj->tj", p, fit[:3]) + M[ids] * fit[3]).astype(np.float32); c = [of(p, m[2].ids) for p, m in zip(parts, made)]; S, n, own = np.zeros((8192, 8)), np.zeros(8192), np.zeros((8192, 8))
    for i in range(PIECES):
        w = T.TXT.decode([i]); e = T.TXT.encode(w)
        if len(e.ids) == 1: own[i] = of(share(w, e), e.ids).sum(0)
    for m, x in zip(made, c): np.add.at(S, m[2].ids, x); np.add.at(n, m[2].ids, 1)
    with open(out, "wb") as f: pickle.dump(dict(policy=[m[0] for m in made], ids=[np.array(m[2].ids, np.int16) for m in made], log_odds=Z.astype(np.float32), share=[x.astype(np.float16) for x in c], table=((S + 3 * own) / (n[:, None] + 3)).astype(np.float32)), f)
if __name__ == "__main__": main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
