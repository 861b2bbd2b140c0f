// Light, dark, or as the system has it. The choice is this browser's alone.

const KEY = "roomcast:colours";
const CHOICES = ["system", "light", "dark"] as const;
type Choice = (typeof CHOICES)[number];
const NAMES: Record<Choice, string> = { system: "as the system", light: "light", dark: "dark" };

/** Sets the remembered colours, and lets the button change them. */
export function colours(button: HTMLButtonElement): void {
  let choice = remembered();
  const show = () => {
    if (choice === "system") delete document.documentElement.dataset.colours;
    else document.documentElement.dataset.colours = choice;
    button.dataset.choice = choice;
    button.setAttribute("aria-label", `Colours: ${NAMES[choice]}`);
    button.title = `Colours: ${NAMES[choice]}`;
  };
  button.addEventListener("click", () => {
    choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length]!;
    try {
      localStorage.setItem(KEY, choice);
    } catch {
      // Then they last as long as the page.
    }
    show();
  });
  show();
}

function remembered(): Choice {
  try {
    return CHOICES.find((choice) => choice === localStorage.getItem(KEY)) ?? "system";
  } catch {
    return "system";
  }
}
