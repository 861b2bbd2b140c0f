// The flash sale: live stock, a hold with its countdown, and the ways it ends. Nothing is decided here; the hub sells.

import { type Hold, type Room, RoomcastError } from "@roomcast/client";
import { h, need, setText } from "../shared/dom";
import { plural } from "../shared/words";

/** As the document `sale` of the room has it; what is missing there is not shown. */
interface Offer {
  readonly item: string;
  readonly title: string;
  readonly price: string | undefined;
  readonly stock: number | undefined;
  readonly perUser: number | undefined;
  readonly holdS: number | undefined;
}

const DEFAULT: Offer = { item: "print-a3", title: "Signed A3 print", price: undefined, stock: undefined, perUser: undefined, holdS: undefined };

export function sale(room: Room, announce: (text: string) => void): void {
  let offer = DEFAULT;
  let stock = room.stock(offer.item);
  let endStock = stock.subscribe(() => draw());
  let held: { hold: Hold; took: number } | undefined;
  let mine = 0;
  let busy = false;
  let soldOut: boolean | undefined;
  let looks = 0;
  /** The offer was written anew while this page was away. */
  let changed = false;

  const section = need("sale");
  const left = need("sale-left");
  const meter = need("sale-meter");
  const say = need("sale-note");
  const reserve = need<HTMLButtonElement>("sale-reserve");
  const quantity = need<HTMLSelectElement>("sale-quantity");
  const holding = need("sale-hold");
  const clock = need("sale-clock");
  const bar = need<HTMLProgressElement>("sale-bar");
  const buy = need<HTMLButtonElement>("sale-buy");
  const giveBack = need<HTMLButtonElement>("sale-release");

  const tell = (text: string) => setText(say, text);

  function draw(): void {
    const { remaining, pending } = stock.value;
    section.hidden = remaining === undefined;
    if (remaining === undefined) return;
    setText(left, remaining === 0 ? "Sold out" : `${remaining} left`);
    left.classList.toggle("on-its-way", pending);
    section.classList.toggle("sold-out", remaining === 0);
    // Not for each print that goes: only when the last one does, and when one comes back.
    if (soldOut !== undefined && soldOut !== (remaining === 0)) announce(remaining === 0 ? "The prints are sold out" : `${plural(remaining, "print")} to be had again`);
    soldOut = remaining === 0;
    meter.replaceChildren(...Array.from({ length: Math.min(offer.stock ?? 0, 40) }, (_, i) => h("span", { class: i < remaining ? "there" : "" })));
    const holds = held?.hold.value.state === "held";
    holding.hidden = !holds;
    need("sale-order").hidden = holds;
    reserve.disabled = busy || remaining === 0;
    quantity.disabled = busy || remaining === 0;
    buy.disabled = giveBack.disabled = busy;
    setText(need("sale-mine"), mine > 0 ? `Yours: ${plural(mine, "print")}.` : "");
  }

  function drawClock(): void {
    if (held?.hold.value.state !== "held") return;
    const leftMs = Math.max(0, held.hold.value.expiresAt - Date.now());
    const seconds = Math.ceil(leftMs / 1_000);
    setText(clock, `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`);
    bar.max = held.took;
    bar.value = leftMs;
    section.classList.toggle("hurry", seconds <= 10);
  }

  async function during(pressed: HTMLElement, what: () => Promise<void>): Promise<void> {
    const here = document.activeElement === pressed;
    busy = true;
    draw();
    try {
      await what();
    } catch (error) {
      tell(refusal(error));
    }
    busy = false;
    draw();
    drawClock();
    // A button that cannot be pressed loses the focus; it goes on to what can be done next.
    if (here && (document.activeElement === document.body || document.activeElement === pressed)) focusNext();
  }

  function focusNext(): void {
    const next = [buy, reserve].find((button) => !button.disabled && !button.closest("[hidden]"));
    (next ?? section).focus();
  }

  function refusal(error: unknown): string {
    const code = error instanceof RoomcastError ? error.code : "";
    if (code === "sold_out") return "Somebody was faster: not that many are left.";
    if (code === "limit_reached") return offer.perUser ? `At most ${offer.perUser} for each guest, held and bought ones together.` : "You have as many as one guest may have.";
    if (code === "conflict") return "Too late: the hold has ended.";
    return `Not done: ${(error as Error).message}.`;
  }

  reserve.addEventListener("click", () => void during(reserve, async () => {
    const hold = await stock.reserve(Number(quantity.value));
    held = { hold, took: Math.max(1, hold.value.expiresAt - Date.now()) };
    tell("");
    announce(`${plural(hold.value.quantity, "print")} held for you for ${Math.round(held.took / 1_000)} seconds`);
    hold.subscribe(({ state, quantity: many }) => {
      if (state === "confirmed") mine += many;
      section.classList.remove("hurry");
      tell(state === "confirmed" ? `Bought. A host will bring you ${many === 1 ? "it" : "them"}.` : state === "released" ? "Given back." : "The hold has run out; what was held is for sale again.");
      const here = holding.contains(document.activeElement);
      draw();
      // It has run out under the hand.
      if (here && !busy) focusNext();
    });
  }));
  buy.addEventListener("click", () => void during(buy, async () => { await held?.hold.confirm(); }));
  giveBack.addEventListener("click", () => void during(giveBack, async () => { await held?.hold.release(); }));

  async function look(): Promise<void> {
    const turn = ++looks;
    changed = false;
    const doc = await room.get("sale").catch(() => undefined);
    // An offer that cannot be read just now is no other offer.
    if (!doc || turn !== looks) return;
    const { value } = doc;
    const { item, title, price, stock: all, per_user, hold_s } = (value ?? {}) as Record<string, unknown>;
    const text = (given: unknown, otherwise: string) => (typeof given === "string" && given !== "" ? given.slice(0, 80) : otherwise);
    const number = (given: unknown) => (typeof given === "number" && given > 0 ? given : undefined);
    offer = { item: text(item, DEFAULT.item), title: text(title, DEFAULT.title), price: text(price, "") || undefined, stock: number(all), perUser: number(per_user), holdS: number(hold_s) };
    endStock();
    stock = room.stock(offer.item);
    endStock = stock.subscribe(draw);
    setText(need("sale-title"), offer.title);
    setText(need("sale-terms"), [offer.price, offer.perUser ? `${offer.perUser} for each guest` : "", offer.holdS ? `held for ${offer.holdS} s` : ""].filter(Boolean).join(" · "));
    quantity.replaceChildren(...Array.from({ length: Math.min(offer.perUser ?? 2, 5) }, (_, i) => h("option", { value: i + 1 }, String(i + 1))));
    draw();
  }

  room.on("joined", () => void look());
  room.on("recovered", () => { if (changed) void look(); });
  room.on("event", ({ event, data, replay }) => {
    if (event !== "doc" || (data as { doc?: unknown } | null)?.doc !== "sale") return;
    // What is replayed is told all at once: one look at its end is enough.
    if (replay) changed = true;
    else void look();
  });
  setInterval(drawClock, 250);
  draw();
}
