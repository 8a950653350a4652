"""generation/NAME.json: greedy ids and beams by transformers' generate, only where float64 finds the same ids."""
import torch

from families import make
from folder import draw, pick
from shapes import NEW_TOKENS
from training import twin_of

MODELS = ("gpt2-lm", "opt-lm", "llama-lm")
CASES, TRIES = 3, 200
GAP_MIN = 1e-4  # of the two best log-probabilities and of two scores: what rounding does not close


def generate(model, prompt, new_tokens, beams=1, end=None, penalty=1.0):
    """(ids after the prompt, scores) of every hypothesis, best first; ids stop after the end."""
    settings = model.generation_config
    settings.eos_token_id, settings.bos_token_id, settings.pad_token_id = end, None, 0
    more = {"num_beams": beams, "num_return_sequences": beams, "length_penalty": penalty, "early_stopping": False}
    ids = torch.tensor([prompt])
    with torch.no_grad():
        answer = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False,
                                return_dict_in_generate=True, output_scores=True, **(more if beams > 1 else {}))
    rows = [row[len(prompt):].tolist() for row in answer.sequences]
    if end is not None:
        rows = [row[:row.index(end) + 1] if end in row else row for row in rows]
    return rows, [float(score) for score in answer.sequences_scores] if beams > 1 else None


def log_probabilities(twin, prompt, ids):
    """Of every next token along a text, in one pass without a cache."""
    with torch.no_grad():
        logits = twin(torch.tensor([prompt + ids[:-1]])).logits[0, len(prompt) - 1:]
    return torch.log_softmax(logits.double(), -1)


def sum_along(rows, ids):
    return float(sum(row[i] for row, i in zip(rows, ids)))


def greedy_case(model, twin, prompt, new_tokens):
    ids = generate(model, prompt, new_tokens)[0][0]
    if ids != generate(twin, prompt, new_tokens)[0][0]:
        return None
    rows = log_probabilities(twin, prompt, ids)
    best = rows.topk(2).values
    margin = float((best[:, 0] - best[:, 1]).min())
    return {"ids": ids, "min_top2_margin": margin, "sum_logprob": sum_along(rows, ids)} if margin > GAP_MIN else None


def beam_case(model, twin, prompt, new_tokens, beams, penalty, end=None):
    rows, scores = generate(model, prompt, new_tokens, beams, end, penalty)
    exact, exact_scores = generate(twin, prompt, new_tokens, beams, end, penalty)
    gaps = [a - b for a, b in zip(exact_scores, exact_scores[1:])]
    if rows != exact or min(gaps) < GAP_MIN:
        return None
    case = {"num_beams": beams, "length_penalty": penalty, "max_new_tokens": new_tokens, "beams": []}
    if end is not None:
        case.update(eos=end, ended=[row[-1] == end for row in rows])
    for ids, score in zip(rows, scores):
        total = sum_along(log_probabilities(twin, prompt, ids), ids)
        if abs(score - total / len(ids) ** penalty) > 1e-4:
            raise ValueError("a beam's score %g is not its sum %g over its length" % (score, total))
        case["beams"].append({"ids": ids, "score": score, "sum_logprob": total})
    return case


def ending_case(model, twin, prompt, new_tokens, beams, penalty, rng, without):
    """An end that some hypotheses reach and others do not: an id of the beams without one."""
    ids = sorted({i for beam in without["beams"] for i in beam["ids"]})
    for end in rng.permutation(ids).tolist():
        case = beam_case(model, twin, prompt, new_tokens, beams, penalty, end)
        if case and any(case["ended"]) and not all(case["ended"]):
            return case
    return None


def write_model(folder, name, seed, scale):
    model, _, _, _ = make(name, seed, scale)
    twin, rng = twin_of(model), draw(seed, "generation/" + name)
    new_tokens = pick(rng, (6, 13, NEW_TOKENS))
    beams, cases = pick(rng, (2, 3, 4, 4, 5)), []
    for _ in range(TRIES):
        if len(cases) == CASES:
            break
        prompt = rng.integers(5, model.config.vocab_size, pick(rng, (1, 2, 5, 11))).tolist()
        penalty = pick(rng, (1.0, 1.0, 0.5, 2.0))
        greedy = greedy_case(model, twin, prompt, new_tokens)
        beam = greedy and beam_case(model, twin, prompt, new_tokens, beams, penalty)
        ending = beam and ending_case(model, twin, prompt, new_tokens, beams, penalty, rng, beam)
        if ending:
            cases.append({"prompt": prompt, "greedy": greedy, "beam": beam, "beam_eos": ending})
    if cases:
        folder.json(name + ".json", {"model": "../families/" + name, "max_new_tokens": new_tokens, "cases": cases})
    else:
        print("generation/%s: every case of this seed has near ties" % name)


def write(out, seed, scale):
    folder = out.below("generation")
    for name in MODELS:
        write_model(folder, name, seed, scale)
