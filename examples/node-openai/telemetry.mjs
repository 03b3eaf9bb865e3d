// Sets OpenTelemetry up before the application is loaded: node --import ./telemetry.mjs app.mjs
// Where to send, and the service's name, come from OTEL_… variables; see README.md.
import { register } from 'node:module';
import { HttpInstrumentation } from '@opentelemetry/instrumentation-http';
import { OpenAIInstrumentation } from '@opentelemetry/instrumentation-openai';
import { UndiciInstrumentation } from '@opentelemetry/instrumentation-undici';
import { NodeSDK } from '@opentelemetry/sdk-node';

// Without this hook ES modules cannot be instrumented.
register('@opentelemetry/instrumentation/hook.mjs', import.meta.url);

const sdk = new NodeSDK({
  instrumentations: [
    new HttpInstrumentation(),
    new UndiciInstrumentation(),
    // Prompts and answers travel in log records, which the sidecar joins to their spans.
    new OpenAIInstrumentation({ captureMessageContent: true }),
  ],
});
sdk.start();

// What has not been sent yet, before the process ends.
process.once('SIGTERM', async () => {
  await sdk.shutdown().catch((error) => console.error('telemetry:', error.message));
  process.exit(0);
});
