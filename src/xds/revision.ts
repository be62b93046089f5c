// How one set of resources is spread over several responses: `system_version_info` of all but the last says that more follows.
// Other clients ignore the field; from other servers, which send a set in one response, every response is the last one.
const PARTIAL = "+more";

export const formatRevision = (revision: number, last: boolean): string => `${revision}${last ? "" : PARTIAL}`;

export const isPartial = (systemVersionInfo: string): boolean => systemVersionInfo.endsWith(PARTIAL);
