#!/bin/sh
# One call of a model as OTLP/JSON, with nothing but curl: a request, the call below it, and its prompt and answer in a
# log record. Any language that can post JSON can do this.
#
#   OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 sh send.sh 'What is a span?' 'A unit of work.'
#
# It prints the trace id, under which Langfuse and Tempo show the trace.
set -eu

endpoint=${OTEL_EXPORTER_OTLP_ENDPOINT:-http://127.0.0.1:4318}
question=${1:-What is a span?}
answer=${2:-A unit of work.}

random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
# Text within a JSON string: backslashes and quotes escaped, control characters to spaces.
escape() { printf %s "$1" | tr '\000-\037' ' ' | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g'; }
text() { printf '{"key": "%s", "value": {"stringValue": "%s"}}' "$1" "$(escape "$2")"; }
number() { printf '{"key": "%s", "value": {"intValue": "%s"}}' "$1" "$2"; }
messages() {
  text "$1" "[{\"role\": \"$2\", \"parts\": [{\"type\": \"text\", \"content\": \"$(escape "$3")\"}]}]"
}
post() {
  curl --silent --show-error --fail --max-time 10 --output /dev/null \
    --header 'content-type: application/json' --data-binary @- "$endpoint/v1/$1"
}

# Ids are in hex, times are nanoseconds since 1970, as text.
trace=$(random 16) request=$(random 8) call=$(random 8)
now=$(date +%s)
resource="{\"attributes\": [$(text service.name curl-example)]}"

post traces <<JSON
{"resourceSpans": [{"resource": $resource, "scopeSpans": [
  {"scope": {"name": "example.server"}, "spans": [
    {"traceId": "$trace", "spanId": "$request", "name": "GET /ask", "kind": 2,
     "startTimeUnixNano": "${now}000000000", "endTimeUnixNano": "${now}900000000",
     "attributes": [$(text http.request.method GET), $(text http.route /ask)]}]},
  {"scope": {"name": "example.genai", "version": "1.0.0"}, "spans": [
    {"traceId": "$trace", "spanId": "$call", "parentSpanId": "$request", "name": "chat gpt-4o-mini", "kind": 3,
     "startTimeUnixNano": "${now}100000000", "endTimeUnixNano": "${now}800000000",
     "attributes": [
       $(text gen_ai.operation.name chat),
       $(text gen_ai.provider.name openai),
       $(text gen_ai.request.model gpt-4o-mini),
       $(text gen_ai.response.model gpt-4o-mini-2024-07-18),
       $(number gen_ai.usage.input_tokens 12),
       $(number gen_ai.usage.output_tokens 5)]}]}]}]}
JSON

# Prompt and answer, with the ids of the call they belong to. Langfuse gets them; Tempo does not.
post logs <<JSON
{"resourceLogs": [{"resource": $resource, "scopeLogs": [{"scope": {"name": "example.genai", "version": "1.0.0"}, "logRecords": [
  {"traceId": "$trace", "spanId": "$call", "timeUnixNano": "${now}800000000",
   "eventName": "gen_ai.client.inference.operation.details",
   "attributes": [
     $(messages gen_ai.input.messages user "$question"),
     $(messages gen_ai.output.messages assistant "$answer")]}]}]}]}
JSON

echo "$trace"
