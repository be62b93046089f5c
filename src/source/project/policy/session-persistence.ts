// Session persistence in the Gateway API's own words (GEP-1619).
import { z } from "zod";
import type { SessionPersistence } from "#mesh/traffic.ts";
import { duration, ruled } from "./schema.ts";

const written = z.strictObject({
  sessionName: z
    .string()
    .min(1)
    .max(128)
    .regex(/^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/)
    .optional()
    .meta({ description: "Of the cookie or header; trackbed-session when left out." }),
  type: z.enum(["Cookie", "Header"]).default("Cookie"),
  absoluteTimeout: duration.optional(),
  cookieConfig: z.strictObject({ lifetimeType: z.enum(["Session", "Permanent"]).default("Session") }).optional(),
});

const isPermanent = ({ cookieConfig }: z.output<typeof written>): boolean => cookieConfig?.lifetimeType === "Permanent";
const PERMANENT = "(has(self.cookieConfig) && has(self.cookieConfig.lifetimeType) && self.cookieConfig.lifetimeType == 'Permanent')";

export const sessionPersistence = ruled(
  written,
  {
    cel: `${PERMANENT} == has(self.absoluteTimeout)`,
    message: "absoluteTimeout and lifetimeType Permanent need each other: a session cookie lives as long as the client's session",
    holds: (one) => isPermanent(one) === (one.absoluteTimeout !== undefined),
  },
  {
    cel: "!has(self.type) || self.type != 'Header' || !has(self.cookieConfig)",
    message: "cookieConfig is for type Cookie",
    holds: (one) => one.type !== "Header" || one.cookieConfig === undefined,
  },
);

export const readSession = ({ type, sessionName, absoluteTimeout }: z.output<typeof written>): SessionPersistence => ({
  type,
  sessionName: sessionName ?? "",
  absoluteTimeoutMilliseconds: absoluteTimeout ?? 0,
});
