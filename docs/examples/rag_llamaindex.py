"""Retrieve, rerank, write a prompt: with LlamaIndex.

pip install httpx llama-index-core && pip install --no-deps .    # in a clone of the repository
RERANK_URL=https://HOST RERANK_KEY=KEY python docs/examples/rag_llamaindex.py
"""

import os

from llama_index.core import PromptTemplate
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, TextNode

from ko_reranker.client.llamaindex import KoReranker

PASSAGES = [
    "부산은 바다를 낀 항구 도시입니다.",
    "어텐션 마스크는 모델이 채움 토큰을 보지 않게 합니다.",
    "김치찌개에는 돼지고기와 두부를 넣습니다.",
    "토크나이저는 글을 모델이 아는 조각으로 나눕니다.",
    "어텐션은 낱말마다 다른 낱말을 얼마나 볼지 정합니다.",
    "서울의 인구는 약 940만 명입니다.",
]
KEPT = 3


class Shelf(BaseRetriever):
    """Stands for your index's retriever: hands out whatever might fit, in no good order."""

    def _retrieve(self, query_bundle):
        return [NodeWithScore(node=TextNode(text=text), score=0.0) for text in PASSAGES]


PROMPT = PromptTemplate("다음 글만 보고 답하세요.\n\n{context}\n\n질문: {question}")


def prompt_for(question: str, url: str, key: str) -> str:
    """Return the prompt for a language model: the best passages only, the very best first and last."""
    reranker = KoReranker(base_url=url, api_key=key, top_n=KEPT, order="lost_in_the_middle")
    found = Shelf().retrieve(question)
    best = reranker.postprocess_nodes(found, query_str=question)
    return PROMPT.format(context="\n\n".join(node.text for node in best), question=question)


if __name__ == "__main__":
    print(prompt_for("어텐션 마스크는 무엇을 하나요?", os.environ["RERANK_URL"], os.environ["RERANK_KEY"]))
