// Sets OpenTelemetry up before the backend is loaded: node --import ./telemetry.mjs backend.mjs
// It takes the place of LangChain's callback handlers: chains, models and tools become spans of the request they serve.
// Where to send, and the service's name, come from OTEL_… variables; see README.md.
import { register } from 'node:module';
import { LangChainInstrumentation } from '@arizeai/openinference-instrumentation-langchain';
import * as callbacks from '@langchain/core/callbacks/manager';
import { ExpressInstrumentation } from '@opentelemetry/instrumentation-express';
import { HttpInstrumentation } from '@opentelemetry/instrumentation-http';
import { UndiciInstrumentation } from '@opentelemetry/instrumentation-undici';
import { NodeSDK } from '@opentelemetry/sdk-node';

// Without this hook ES modules cannot be instrumented.
register('@opentelemetry/instrumentation/hook.mjs', import.meta.url);

const langchain = new LangChainInstrumentation();
const sdk = new NodeSDK({
  instrumentations: [new HttpInstrumentation(), new ExpressInstrumentation(), new UndiciInstrumentation(), langchain],
});
sdk.start();
langchain.manuallyInstrument(callbacks);

// What has not been sent yet, before the process ends.
process.once('SIGTERM', async () => {
  await sdk.shutdown().catch((error) => console.error('telemetry:', error.message));
  process.exit(0);
});
