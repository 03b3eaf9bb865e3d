// An Express backend as Backstage plugins have one: a router that answers questions with a LangChain chain.
// Nothing in here traces: no callback handler is passed to any chain.
//   curl localhost:7007/api/assistant/ask -H 'content-type: application/json' -d '{"question": "Is it warmer in Oslo?"}'
import { tool } from '@langchain/core/tools';
import { StringOutputParser } from '@langchain/core/output_parsers';
import { ChatPromptTemplate } from '@langchain/core/prompts';
import { RunnableLambda } from '@langchain/core/runnables';
import { ChatOpenAI } from '@langchain/openai';
import express from 'express';

const model = new ChatOpenAI({
  model: process.env.OPENAI_MODEL ?? 'gpt-4o-mini',
  configuration: { baseURL: process.env.OPENAI_BASE_URL },
});
const weather = tool(({ city }) => `${city}: ${10 + city.length} degrees, sunny`, {
  name: 'get_weather',
  description: 'The weather in a city, now.',
  schema: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
});

const prompt = ChatPromptTemplate.fromMessages([
  ['system', 'You are a travel assistant. Be brief.'],
  ['human', '{question}'],
]);
// Asks with the tool at hand, and then again with what the tool said.
const look = RunnableLambda.from(async ({ question }, config) => {
  const asked = await prompt.pipe(model.bindTools([weather])).invoke({ question }, config);
  const facts = await Promise.all((asked.tool_calls ?? []).map((call) => weather.invoke(call, config)));
  return { question: [question, ...facts.map((fact) => fact.content)].join('\n') };
});
const assistant = look.pipe(prompt).pipe(model).pipe(new StringOutputParser()).withConfig({ runName: 'assistant' });

export function createRouter() {
  const router = express.Router();
  router.post('/ask', async (request, response) => {
    response.json({ answer: await assistant.invoke({ question: String(request.body.question) }) });
  });
  return router;
}

const app = express();
app.use(express.json());
app.get('/healthcheck', (_request, response) => response.json({ status: 'ok' }));
app.use('/api/assistant', createRouter());
const server = app.listen(Number(process.env.PORT ?? 7007), '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}`));
