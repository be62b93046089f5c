// Equality label selectors, as Services and policies write them.
import type { Labels } from "./objects.ts";

export const isEmptySelector = (selector: Labels): boolean => Object.keys(selector).length === 0;

/** Whether every pair of the selector is among the labels. An empty selector matches everything: callers for whom it means nothing ask first. */
export const selects = (selector: Labels, labels: Labels): boolean =>
  Object.entries(selector).every(([key, value]) => Object.hasOwn(labels, key) && labels[key] === value);
