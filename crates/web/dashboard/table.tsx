/** @jsxImportSource preact */
// Tables that fold: where one would be wider than its place, the stylesheet makes a card of each row and writes the name
// of the column beside each figure. The roles say what it still is, whatever it looks like.

import type { ComponentChildren } from "preact";

interface Props { readonly id: string; readonly caption: string; readonly head: ComponentChildren; readonly children: ComponentChildren }

export function Table({ id, caption, head, children }: Props) {
  return (
    <table class="folds" id={id} role="table">
      <caption class="sr">{caption}</caption>
      <thead role="rowgroup"><tr role="row">{head}</tr></thead>
      <tbody role="rowgroup">{children}</tbody>
    </table>
  );
}

export function Column({ name, sort }: { name: string; sort?: "descending" | "none" }) {
  return <th scope="col" role="columnheader" aria-sort={sort}>{name}</th>;
}

/** What a row is about. Long names are shortened, and whole where one points at them. */
export function RowName({ name, children }: { name: string; children?: ComponentChildren }) {
  return <th scope="row" role="rowheader" title={name}><span class="name">{children ?? name}</span></th>;
}

export function Cell({ of, class: kind = "", children }: { of: string; class?: string; children: ComponentChildren }) {
  return <td role="cell" data-label={of} class={kind}>{children}</td>;
}
