"""A file of texts as a vector store and a retriever of LangChain.

python langchain_store.py texts.txt my-store "how do I open a file?"

Needs langchain-core: pip install "sentence-transformers-mirror[langchain]". `st-mirror search` reads the folder, too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from langchain_core.documents import Document

from sentence_transformers_mirror import embedded_model_path, load_corpus
from sentence_transformers_mirror.integrations.langchain import MirrorEmbeddings, MirrorVectorStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="a text a line, or a table with a column of texts")
    parser.add_argument("output", type=Path, help="where to save the store")
    parser.add_argument("question")
    parser.add_argument("--model", default=embedded_model_path(), help="folder or name (default: the embedded one)")
    args = parser.parse_args()

    texts = load_corpus(str(args.texts))[0]["text"]
    documents = [
        Document(text, id=f"line {number}", metadata={"characters": len(text)})
        for number, text in enumerate(texts, start=1)
    ]
    store = MirrorVectorStore.from_documents(documents, MirrorEmbeddings(args.model), language="english")
    store.save_local(args.output, overwrite=True)
    print(f"{len(store)} texts in {args.output}")

    for document, score in store.similarity_search_with_score(args.question, k=3, mode="both"):
        print(f"{score:.2f}  {document.id:10} {document.page_content}")
    print("of more than 20 characters, unlike each other:")
    long = {"characters": lambda count: count > 20}
    retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 3, "filter": long})
    for document in retriever.invoke(args.question):
        print(f"      {document.id:10} {document.page_content}")


if __name__ == "__main__":
    main()
