// The way of an upload through its states. The bytes themselves go elsewhere: to a store of files, or into documents.

import { Handle, Watchers } from "./handle";
import type { Live } from "./live";
import type { CallOptions, UploadReply, UploadState } from "./types";

const REPORT_EVERY_MS = 1_000;

/** An upload of one's own. What it shows never goes back. */
export class Upload extends Handle<UploadReply> {
  readonly #send: (state: UploadState, options?: CallOptions) => Promise<UploadReply>;
  readonly #report: (progress: number) => void;

  /** @internal */
  constructor(live: Live, target: string) {
    let value: UploadReply = { state: "started", progress: 0 };
    let reported = 0;
    const watchers = new Watchers();
    super(() => value, watchers.add);
    const show = (next: UploadReply) => {
      if (value.state === "complete" || value.state === "failed") return;
      value = { state: next.state, progress: next.state === "complete" ? 100 : Math.max(value.progress, next.progress) };
      watchers.tell();
    };
    this.#send = async (state, options) => {
      const fields = state === "progress" ? { target, state, progress: value.progress } : { target, state };
      const reply = (await live.call("upload", fields, options)) as UploadReply;
      show(reply);
      return reply;
    };
    this.#report = (progress) => {
      show({ state: "progress", progress: Math.min(100, Math.floor(progress)) });
      // The page sees each step, the others one per second: that is what `limits.counter_ops_per_minute` allows.
      if (Date.now() - reported < REPORT_EVERY_MS) return;
      reported = Date.now();
      this.#send("progress").catch(() => { /* It is told and forgotten; the next one says more. */ });
    };
  }

  start(options?: CallOptions): Promise<UploadReply> {
    return this.#send("started", options);
  }

  /** How far it is, 0–100. */
  report(progress: number): void {
    this.#report(progress);
  }

  /** From here on the target is visible to everybody. */
  complete(options?: CallOptions): Promise<UploadReply> {
    return this.#send("complete", options);
  }

  fail(options?: CallOptions): Promise<UploadReply> {
    return this.#send("failed", options);
  }
}
