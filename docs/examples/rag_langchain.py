"""Retrieve, rerank, write a prompt: with LangChain.

pip install httpx langchain-core && pip install --no-deps .    # in a clone of the repository
RERANK_URL=https://HOST RERANK_KEY=KEY python docs/examples/rag_langchain.py
"""

import os

from langchain_core.documents import Document
from langchain_core.prompts import PromptTemplate
from langchain_core.retrievers import BaseRetriever

from ko_reranker.client.langchain import KoReranker

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
    """Stands for your vector store: hands out whatever might fit, in no good order."""

    def _get_relevant_documents(self, query, *, run_manager):
        return [Document(page_content=text, metadata={"place": place}) for place, text in enumerate(PASSAGES)]


PROMPT = PromptTemplate.from_template("다음 글만 보고 답하세요.\n\n{context}\n\n질문: {question}")


def prompt_for(question: str, url: str, key: str) -> str:
    """Return the prompt for a language model: the best passages only, the very best first and last."""
    reranker = KoReranker(base_url=url, api_key=key, top_n=KEPT, order="lost_in_the_middle")
    found = Shelf().invoke(question)
    best = reranker.compress_documents(found, question)
    context = "\n\n".join(document.page_content for document in best)
    return PROMPT.format(context=context, question=question)


if __name__ == "__main__":
    print(prompt_for("어텐션 마스크는 무엇을 하나요?", os.environ["RERANK_URL"], os.environ["RERANK_KEY"]))
