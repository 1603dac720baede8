"""An endpoint double: OpenAI's /v1/completions as vLLM serves gpt-oss-safeguard, with a fixed latency and a fixed form of answer.

    python3 double.py ADDRESS PORT LATENCY_MS LOG

Reads prompts as token ids and looks at nothing in them but what stands in the user's message: the same ids are the same
text. Its answer is a short analysis and a label, one in eight texts `violates`. SIGUSR1 hangs it: it goes on reading and
answers nobody; SIGUSR2 ends that for what comes from then on. LOG gets a line for each question: the text (a digest of its
ids), who asked, when, and when the answer was sent (`-` where none was). Each LATENCY answers nothing that nobody waits for.
"""

import asyncio
import gc
import hashlib
import signal
import sys
import time

MODEL = "openai/gpt-oss-safeguard-20b"
# o200k_harmony: <|end|>, and <|message|>, behind which a forced header leaves the model to go on.
END, MESSAGE = b",200007", b",200008]"
SAYS = {False: "Nothing in it falls under a rule.", True: "It falls under rule F1."}
CLOSE = "<|end|><|start|>assistant<|channel|>final<|message|>"
OPEN = "<|channel|>analysis<|message|>"


def http(body, kind=b"application/json", status=b"200 OK"):
    return b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (status, kind, len(body), body)


def events(text, tokens_in, tokens_out):
    head = f'data: {{"model":"{MODEL}","choices":'
    return (f'{head}[{{"text":"{text}","finish_reason":"stop"}}]}}\n\n'
            f'{head}[],"usage":{{"prompt_tokens":{tokens_in},"completion_tokens":{tokens_out}}}}}\n\ndata: [DONE]\n\n').encode()


def whole(text, tokens_in, tokens_out):
    return (f'{{"model":"{MODEL}","choices":[{{"text":"{text}","finish_reason":"stop"}}],'
            f'"usage":{{"prompt_tokens":{tokens_in},"completion_tokens":{tokens_out}}}}}').encode()


class State:
    def __init__(self, latency, log):
        self.latency, self.log, self.hung, self.in_hand, self.most = latency, open(log, "w", 1 << 16), False, set(), 0

    def ended(self, question, answered):
        self.in_hand.discard(question)
        key, peer, asked = question
        self.log.write(f"{key} {peer} {asked:.3f} {f'{answered:.3f}' if answered else '-'}\n")


class Connection(asyncio.Protocol):
    def __init__(self, state):
        self.state, self.buffer, self.question, self.timer = state, b"", None, None

    def connection_made(self, transport):
        self.transport, self.peer = transport, transport.get_extra_info("peername")[0]

    def data_received(self, data):
        self.buffer += data
        head, blank, body = self.buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15:].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(body) < length:
            return
        self.buffer = body[length:]
        self.asked(head.split(b" ", 2)[1], body[:length])

    def asked(self, path, body):
        if path == b"/v1/models":
            return self.transport.write(http(b'{"data":[{"id":"%b"}]}' % MODEL.encode()))
        at = body.find(b'"prompt":[')
        if path != b"/v1/completions" or at < 0:
            return self.transport.write(http(b'{"error":{"message":"not served here"}}', status=b"404 Not Found"))
        ids = body[at + 10:body.index(b"]", at) + 1]
        messages = ids.split(END)
        said = messages[2] if len(messages) > 2 else ids
        digest = hashlib.blake2b(said, digest_size=8)
        violates = digest.digest()[0] < 32
        text = ("" if ids.endswith(MESSAGE) else OPEN) + SAYS[violates] + CLOSE + ("violates" if violates else "allowed")
        counts = ids.count(b",") + 1, 16
        streamed = b'"stream":true' in body
        reply = http(events(text, *counts), b"text/event-stream") if streamed else http(whole(text, *counts))
        # What a server finds out about a double asks for a token or three.
        if b'"max_tokens":1,' in body or b'"max_tokens":3,' in body:
            return None if self.state.hung else self.transport.write(reply)
        self.question = (digest.hexdigest(), self.peer, time.time())
        self.state.in_hand.add(self.question)
        self.state.most = max(self.state.most, len(self.state.in_hand))
        if not self.state.hung:
            self.timer = asyncio.get_running_loop().call_later(self.state.latency, self.answer, reply)

    def answer(self, reply):
        if not self.state.hung:
            self.transport.write(reply)
            self.state.ended(self.question, time.time())
            self.question = None

    def connection_lost(self, _):
        if self.timer:
            self.timer.cancel()
        if self.question:
            self.state.ended(self.question, None)


async def main(address, port, latency, log):
    loop, state, end = asyncio.get_running_loop(), State(int(latency) / 1e3, log), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, end.set)
    loop.add_signal_handler(signal.SIGUSR1, setattr, state, "hung", True)
    loop.add_signal_handler(signal.SIGUSR2, setattr, state, "hung", False)
    server = await loop.create_server(lambda: Connection(state), address, int(port), backlog=1024)
    print("ready", flush=True)
    await end.wait()
    server.close()
    for question in list(state.in_hand):
        state.ended(question, None)
    state.log.close()
    print(f"at most {state.most} questions at once", flush=True)


if __name__ == "__main__":
    gc.freeze()
    asyncio.run(main(*sys.argv[1:]))
