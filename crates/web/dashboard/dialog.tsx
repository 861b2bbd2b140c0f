/** @jsxImportSource preact */
// A question before something is done that cannot be undone. The browser's own dialog: focus goes in, and comes back to what
// opened it, or near to it where that is gone or cannot be pressed any more.

import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { holdFocus } from "../shared/dom";
import { words } from "./link";

interface Props {
  readonly title: string;
  readonly action: string;
  readonly children: ComponentChildren;
  readonly run: () => Promise<string>;
  readonly close: (told: string | undefined) => void;
}

export function Confirm({ title, action, children, run, close }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [busy, setBusy] = useState(false);
  const [failed, setFailed] = useState("");
  const told = useRef<string>();
  // Open before the click that asked has returned: a key pressed right after it belongs to the question already.
  useLayoutEffect(() => {
    const giveBack = holdFocus();
    dialog.current!.showModal();
    return giveBack;
  }, []);
  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    setBusy(true);
    setFailed("");
    try {
      told.current = await run();
      // Not taken away while it is open: nothing behind it could take the focus then.
      dialog.current?.close();
    } catch (error) {
      setFailed(`Not done: ${words(error)}.`);
      setBusy(false);
    }
  };
  return (
    <dialog ref={dialog} aria-labelledby="dialog-title" onClose={() => close(told.current)}>
      <form onSubmit={submit}>
        <h2 id="dialog-title">{title}</h2>
        {children}
        <p class="form-note bad" role="alert">{failed}</p>
        <div class="row">
          <button type="button" onClick={() => dialog.current!.close()}>Cancel</button>
          <button type="submit" class="danger" disabled={busy}>{action}</button>
        </div>
      </form>
    </dialog>
  );
}
