import { Handle } from "./handle";
import type { Live } from "./live";
import type { CallOptions, UploadReply } from "./types";
/** An upload of one's own. What it shows never goes back. */
export declare class Upload extends Handle<UploadReply> {
    #private;
    /** @internal */
    constructor(live: Live, target: string);
    start(options?: CallOptions): Promise<UploadReply>;
    /** How far it is, 0–100. */
    report(progress: number): void;
    /** From here on the target is visible to everybody. */
    complete(options?: CallOptions): Promise<UploadReply>;
    fail(options?: CallOptions): Promise<UploadReply>;
}
