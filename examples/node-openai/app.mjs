// A service with nothing of tracing in it: it asks a model, which calls a tool, and streams the answer.
//   curl 'localhost:8080/ask?question=Is+it+warmer+in+Paris+or+in+Rome%3F'
import { createServer } from 'node:http';
import OpenAI from 'openai';

const openai = new OpenAI(); // reads OPENAI_API_KEY and OPENAI_BASE_URL
const model = process.env.OPENAI_MODEL ?? 'gpt-4o-mini';
const tools = [
  {
    type: 'function',
    function: {
      name: 'get_weather',
      description: 'The weather in a city, now.',
      parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
    },
  },
];

async function answer(question) {
  const messages = [
    { role: 'system', content: 'You are a travel assistant. Be brief.' },
    { role: 'user', content: question },
  ];
  const asked = await openai.chat.completions.create({ model, messages, tools });
  messages.push(asked.choices[0].message);
  for (const call of asked.choices[0].message.tool_calls ?? []) {
    const { city } = JSON.parse(call.function.arguments);
    messages.push({ role: 'tool', tool_call_id: call.id, content: `${city}: ${10 + city.length} degrees, sunny` });
  }
  let text = '';
  const stream_options = { include_usage: true };
  for await (const chunk of await openai.chat.completions.create({ model, messages, stream: true, stream_options })) {
    text += chunk.choices[0]?.delta?.content ?? '';
  }
  return text;
}

const server = createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, 'http://localhost');
  const question = pathname === '/ask' && searchParams.get('question');
  try {
    if (!question) response.writeHead(404).end('ask at /ask?question=...\n');
    else response.end(`${await answer(question)}\n`);
  } catch (error) {
    console.error(error.message);
    response.writeHead(502).end('the model did not answer\n');
  }
});
server.listen(Number(process.env.PORT ?? 8080), '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}`));
