/** The answers of the services, as far as the page uses them. */
export type Role = "viewer" | "member" | "operator" | "suite-operator";
export type Json = string | number | boolean | null | Json[] | { [name: string]: Json };
export type Data = { [name: string]: Json };

export interface Session {
  user: string;
  name: string;
  tenant: string;
  role: Role;
  auth: "oidc" | "development";
  zipkin: string | null;
}

export interface Page<T> {
  items: T[];
  next: string | null;
}

export interface Task {
  id: string;
  title: string;
  description: string | null;
  status: "todo" | "done";
  priority: string;
  tags: string[];
  due: string | null;
  assignee: string | null;
  version: number;
  created_at: string;
  updated_at: string;
}

export interface Member {
  id: string;
  name: string | null;
  capacity: number;
  reserved: number;
  version: number;
}

export interface AnnalsEvent {
  event_id: string;
  event_type: string;
  timestamp: string;
  correlation_id: string;
  causation_id: string | null;
  /** The type of the command that led to the event; older events do not have it. */
  command_type: string | null;
  user_id: string | null;
  client: string | null;
  session_id: string | null;
  source: string;
  traceparent: string | null;
  aggregate_id: string;
  aggregate_type: string;
  data: Data;
  version: number;
  stream: string;
  position: string;
  visible_at?: string | null;
}

export interface SagaStep {
  name: string;
  status: string;
  at?: string;
  attempt?: number;
  error?: { kind: string; message: string; rule?: string | null };
}

export interface Moment {
  type: string;
  time: string;
  version: number;
  user: string | null;
  trace_id: string | null;
  step?: string;
  attempt?: number;
  compensation?: boolean;
  final?: boolean;
  result?: Json;
  error?: { kind: string; message: string; rule?: string | null };
  reason?: string;
  event?: string | null;
  refused?: boolean;
  events?: string[];
  deadline?: string;
}

export interface Saga {
  id: string;
  type: string;
  status: string;
  business_key: string | null;
  parent: string | null;
  user_id: string | null;
  correlation_id: string | null;
  input: Data;
  reason: string | null;
  remaining: string[] | null;
  waits_for: string[] | null;
  /** Until when the saga waits for an answer; null once it has one, or is cancelled. */
  waits_until: string | null;
  suspended: boolean;
  created_at: string;
  updated_at: string;
  ended_at: string | null;
  version: number;
  steps: SagaStep[];
  timeline?: Moment[];
}

export interface Delivery {
  id: string;
  kind: string;
  data: Data;
  channel: string;
  status: string;
  user_id: string;
  attempts: number;
  answer: string | null;
  event_id: string;
  occurred: string;
  created_at: string;
  ended_at: string | null;
  due: string;
  correlation_id: string | null;
  causation_id: string | null;
}

export interface Notice {
  id: string;
  kind: string;
  data: Data;
  read_at: string | null;
  created_at: string;
}

export interface Recurrence {
  id: string;
  rule: string;
  timezone: string;
  command: { type: string; data: Data };
  start: string;
  paused: boolean;
  user: string | null;
  next: string | null;
  last_error: string | null;
}

export interface Written {
  id: string;
  stream: string;
  version: number;
  position: string;
}
