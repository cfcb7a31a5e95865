"""Who has no mouse or no eyes: names of controls as assistive technology gets them, and a walk through a panel with the Tab key."""

import re

_CONTROLS = """panel => [...panel.querySelectorAll("input, select, button, a[href], summary")]
  .filter(part => part.offsetParent && !part.disabled).map((part, i) => { part.dataset.walk = i; return part.outerHTML.slice(0, 160); })"""
_FOCUSED = """() => {
  const { dataset, tagName } = document.activeElement, { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
  return [dataset.walk ?? null, outlineStyle !== "none" && parseFloat(outlineWidth) > 0];
}"""


def nameless(panel):
    """Controls of a panel, also in shadow roots, that have no accessible name, as Chromium's accessibility tree has them."""
    return re.findall(r"^\s*- (?:textbox|combobox|button|checkbox|slider|link)(?! \").*$", panel.aria_snapshot(), re.M)


def unreached(page, panel):
    """Enabled controls of a panel that Tab does not reach from the first one, or whose focus is not to be seen."""
    controls = panel.evaluate(_CONTROLS)
    panel.locator('[data-walk="0"]').focus()
    reached = set()
    for _ in range(3 * len(controls) + 20):
        number, seen = page.evaluate(_FOCUSED)
        page.keyboard.press("Tab")
        reached |= {int(number)} if number is not None and seen else set()
    return [text for number, text in enumerate(controls) if number not in reached and number]  # script gave the first its focus, without a ring


def check(page, panel):
    """All of it, and that it would find what is wrong: a box without a name, a control that Tab passes over."""
    assert not (wrong := nameless(panel)), wrong
    assert not (wrong := unreached(page, panel)), wrong
    panel.evaluate("""panel => {
      panel.insertAdjacentHTML("beforeend", "<input class='wrong'><button class='wrong' tabindex='-1'>passed over</button>");
    }""")
    assert len(nameless(panel)) == 1
    assert ["passed over" in text for text in unreached(page, panel)] == [True]
    panel.evaluate("panel => panel.querySelectorAll('.wrong').forEach(part => part.remove())")
