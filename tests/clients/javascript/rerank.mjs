// Rerank as one client does, and print [[index, score], …], best first: node rerank.mjs CLIENT, told the rest by the environment.
import { createAmazonBedrock } from "@ai-sdk/amazon-bedrock";
import { createCohere } from "@ai-sdk/cohere";
import Mixedbread from "@mixedbread/sdk";
import { rerank } from "ai";
import { CohereClient, CohereClientV2 } from "cohere-ai";
import { VoyageAIClient } from "voyageai";

const { RERANK_URL: url, RERANK_KEY: key, QUERY: query } = process.env;
const documents = JSON.parse(process.env.DOCUMENTS);

async function ai(model) {
  const { ranking } = await rerank({ model, query, documents, topN: 2 });
  return ranking.map(({ originalIndex, score }) => [originalIndex, score]);
}

async function cohere(client) {
  const { results } = await client.rerank({ model: "rerank-v3.5", query, documents, topN: 2 });
  return results.map(({ index, relevanceScore }) => [index, relevanceScore]);
}

const CLIENTS = {
  "ai, cohere": () => ai(createCohere({ apiKey: key, baseURL: `${url}/v2` }).reranking("rerank-v3.5")),
  "ai, bedrock": () =>
    ai(createAmazonBedrock({ apiKey: key, region: "ap-northeast-2", baseURL: url }).reranking("cohere.rerank-v3-5:0")),
  "cohere-ai": () => cohere(new CohereClient({ token: key, environment: url })),
  "cohere-ai, v2": () => cohere(new CohereClientV2({ token: key, environment: url })),
  voyageai: async () => {
    const client = new VoyageAIClient({ apiKey: key, environment: `${url}/v1` });
    const { data } = await client.rerank({ model: "rerank-2", query, documents, topK: 2 });
    return data.map(({ index, relevanceScore }) => [index, relevanceScore]);
  },
  mixedbread: async () => {
    const client = new Mixedbread({ apiKey: key, baseURL: url });
    const { data } = await client.rerank({ model: "any", query, input: documents, top_k: 2 });
    return data.map(({ index, score }) => [index, score]);
  },
};

console.log(JSON.stringify(await CLIENTS[process.argv[2]]()));
