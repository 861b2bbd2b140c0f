/** @jsxImportSource preact */
// Who did what, newest first: live, and further back on demand.

import type { Link } from "./link";

export function Audit({ link }: { link: Link }) {
  return (
    <section aria-labelledby="audit-heading">
      <h2 id="audit-heading">Audit log</h2>
      <div class="scroll tall" tabIndex={0} role="region" aria-label="Audit log, scrollable">
        <table id="audit">
          <caption class="sr">Who did what, newest first</caption>
          <thead><tr><th scope="col">When</th><th scope="col">Who</th><th scope="col">What</th><th scope="col">On</th><th scope="col">Detail</th></tr></thead>
          <tbody>
            {link.entries.value.map(({ offset, at, by, action, on, detail }) => (
              <tr key={offset}>
                <th scope="row"><time dateTime={new Date(at).toISOString()}>{new Date(at).toLocaleString("en-GB")}</time></th>
                <td>{by}</td><td><span class="act">{action.replace("_", " ")}</span></td><td>{on ?? ""}</td><td class="wrap">{detail ?? ""}</td>
              </tr>
            ))}
            {link.entries.value.length === 0 && <tr><td colSpan={5} class="empty">Nothing was done yet.</td></tr>}
          </tbody>
        </table>
      </div>
      <div class="row"><button type="button" onClick={() => void link.readAudit(true)}>Older entries</button><p class="form-note" role="status">{link.entriesNote.value}</p></div>
    </section>
  );
}
