"""KPop (ringtech.notion.site/kpop): a token counts nothing where trainer and sampler are far apart.

importance = 0 where max(D(p, q), D(q, p)) > phi
D(p, q)    = p log(p / q) + (1 - p) log((1 - p) / (1 - q))
"""

from dataclasses import dataclass

from agentrl.algorithms import GRPO


def divergence(p, q):
    return p * (p / q).log() + (1 - p) * ((1 - p + 1e-8) / (1 - q + 1e-8)).log()


@dataclass(frozen=True, kw_only=True)
class KPop(GRPO):
    phi: float = 0.1

    def importance(self, terms):
        p, q = terms.proximal_logprobs.exp(), terms.sampler_logprobs.exp()
        is_close = divergence(p, q).maximum(divergence(q, p)) <= self.phi
        return super().importance(terms).where(is_close, 0.0)


algorithm = KPop()
