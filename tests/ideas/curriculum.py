"""A curriculum over kinds of tasks, by the number of their steps: what is learned of one counts for
all of its kind (learnability, arXiv 2408.15099).
"""

from dataclasses import replace

from agentrl.tasks.curriculum import Curriculum
from experiments import gsm8k_offline

curriculum = Curriculum(lambda task: f"{task['answer'].count('<<')} steps")
config = replace(gsm8k_offline.config, batches=curriculum, after_step=curriculum.learn)
