/** @jsxImportSource preact */
// Who did what, newest first: live, and further back on demand.

import type { Link } from "./link";
import { Cell, Column, Table } from "./table";

const COLUMNS = ["When", "Who", "What", "On", "Detail"];

export function Audit({ link }: { link: Link }) {
  return (
    <section aria-labelledby="audit-heading">
      <h2 id="audit-heading">Audit log</h2>
      <div class="scroll tall" tabIndex={0} role="region" aria-label="Audit log, scrollable">
        <Table id="audit" caption="Who did what, newest first" head={COLUMNS.map((name) => <Column key={name} name={name} />)}>
          {link.entries.value.map(({ offset, at, by, action, on, detail }) => (
            <tr role="row" key={offset}>
              <th scope="row" role="rowheader"><time dateTime={new Date(at).toISOString()}>{new Date(at).toLocaleString("en-GB")}</time></th>
              <Cell of="Who">{by}</Cell><Cell of="What"><span class="act">{action.replace("_", " ")}</span></Cell><Cell of="On">{on ?? ""}</Cell><Cell of="Detail" class="wrap">{detail ?? ""}</Cell>
            </tr>
          ))}
          {link.entries.value.length === 0 && <tr role="row"><td role="cell" colSpan={COLUMNS.length} class="whole empty">Nothing was done yet.</td></tr>}
        </Table>
      </div>
      <div class="row"><button type="button" onClick={() => void link.readAudit(true)}>Older entries</button><p class="form-note" role="status">{link.entriesNote.value}</p></div>
    </section>
  );
}
