/** @jsxImportSource preact */
// The whole board, once the hub has let an admin in.

import { explain } from "../shared/words";
import { Audit } from "./audit";
import type { Link } from "./link";
import { Moderation } from "./moderation";
import { Nodes } from "./nodes";
import { Notify } from "./notify";
import { Banner, Overview } from "./overview";
import { Redis } from "./redis";
import { Rooms } from "./rooms";

const PARTS = ["overview", "nodes", "rooms", "redis", "moderation", "notifications", "audit"] as const;

export function Board({ link, since, leave }: { link: Link; since: { at: number }; leave: () => void }) {
  const state = link.state.value;
  const said = explain(state, since.at, link.now.value);
  return (
    <>
      <header class="top">
        <div class="brand"><img src="/admin/icon.svg" alt="" width={30} height={30} /><h1>roomcast</h1></div>
        <nav aria-label="Parts of the dashboard">{PARTS.map((part) => <a key={part} href={`#${part}-heading`}>{part}</a>)}</nav>
        <div class="top-right">
          <p class="status" id="status" data-tone={said.tone} title={state.name === "connected" ? `${state.session.node}: ${said.detail}` : said.detail}><span class="dot" aria-hidden="true" /><span class="words">{state.name === "connected" ? `Live on ${state.session.node}` : said.title}</span></p>
          <p class="who">as <strong id="who">{link.user.value}</strong>{link.writable.value ? "" : ", read-only"}</p>
          <button type="button" id="sign-out" onClick={leave}>Sign out</button>
        </div>
      </header>
      <div class="sr" id="spoken" role="log" aria-live="polite" aria-label="What happened last">{link.spoken.value.map(({ n, text }) => <p key={n}>{text}</p>)}</div>
      <main>
        <Banner link={link} />
        <Overview link={link} />
        <Nodes link={link} />
        <Rooms link={link} />
        <Redis link={link} />
        <div class="halves apart"><Moderation link={link} /><Notify link={link} /></div>
        <Audit link={link} />
      </main>
    </>
  );
}
