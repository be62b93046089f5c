// Claims about filter expressions: what they let through, and that whatever is wrong with one is said with its place.
import assert from "node:assert/strict";
import { test } from "node:test";
import { isMeshError } from "#mesh/error.ts";
import { type Fields, parseFilter } from "./filter.ts";

type Thing = { readonly name: string | null; readonly size: number; readonly fine: boolean; readonly tags: readonly string[] };

const fields: Fields<Thing> = {
  name: { kind: "text", read: ({ name }) => name },
  "thing.size": { kind: "number", read: ({ size }) => size },
  fine: { kind: "flag", read: ({ fine }) => fine },
  tags: { kind: "list", read: ({ tags }) => tags },
};
const web: Thing = { name: "shop/web", size: 80, fine: true, tags: ["UF", "URX"] };
const nameless: Thing = { name: null, size: -1, fine: false, tags: [] };

test("a filter lets through what it says", () => {
  const cases: [string, boolean, boolean][] = [
    ["", true, true],
    ["   ", true, true],
    ["name == shop/web", true, false],
    ['name == "shop/web"', true, false],
    ["name=='shop/web'", true, false],
    ["name != shop/web", false, true],
    ["name == null", false, true],
    ["name != null", true, false],
    ["name", true, false],
    ["!name", false, true],
    ["fine == true", true, false],
    ["fine", true, false],
    ["thing.size == 80", true, false],
    ["thing.size < 0", false, true],
    ["thing.size <= -1", false, true],
    ["thing.size >= 80 && thing.size > 79.5", true, false],
    ["name in [other, shop/web]", true, false],
    ["thing.size in [80, 81]", true, false],
    ["tags == UF", true, false],
    ["tags.contains(URX)", true, false],
    ["tags == null", false, true],
    ["tags", true, false],
    ["name.startsWith('shop/')", true, false],
    ["name.endsWith(web)", true, false],
    ['name.contains("p/w")', true, false],
    ["!(name == shop/web || fine)", false, true],
    ["fine && name == other || thing.size == 80", true, false],
    ["fine && (name == other || thing.size == 81)", false, false],
    ["name == nobody || !fine && thing.size == -1", false, true],
    ['name == "a \\"quoted\\" name"', false, false],
  ];
  for (const [text, first, second] of cases) {
    const filter = parseFilter(text, fields);
    assert.deepEqual([filter(web), filter(nameless)], [first, second], text);
  }
});

test("what is wrong is said with its place", () => {
  const cases: [string, RegExp][] = [
    ["nme == web", /character 1, at "nme == web": there is no field nme; there are name, thing\.size, fine, tags/],
    ["name = web", /character 6, at "= web": this is neither a name, a value nor an operator/],
    ["name ==", /character 8, at its end: expected a value/],
    ["name == web &&", /character 15, at its end: expected the name of a field/],
    ["(name == web", /character 13, at its end: expected \)/],
    ["name == web fine", /character 13, at "fine": expected && or \|\| or the end/],
    ["name < 3", /name is not a number/],
    ["thing.size == large", /expected a number/],
    ["fine == maybe", /expected true or false/],
    ["name in web", /expected \[/],
    ["fine.startsWith(t)", /fine is not a text/],
    ['name == "open', /character 9/],
    ["__proto__ == 1", /there is no field __proto__/],
    ["constructor", /there is no field constructor/],
    [`${"(".repeat(1000)}fine${")".repeat(1000)}`, /nothing is nested deeper than 64/],
    [`${"!".repeat(1000)}fine`, /nothing is nested deeper than 64/],
  ];
  for (const [text, message] of cases)
    assert.throws(
      () => parseFilter(text, fields),
      (error: unknown) => isMeshError(error) && error.code === "E_QUESTION" && message.test(error.message),
      text.slice(0, 30),
    );
});
