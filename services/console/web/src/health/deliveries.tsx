import { Send } from "lucide-preact";
import { useState } from "preact/hooks";
import { Link } from "wouter-preact";
import { ask, query } from "../lib/api";
import { words } from "../lib/format";
import { useEvery, useLoad } from "../lib/load";
import { may } from "../lib/session";
import type { Delivery, Page } from "../lib/types";
import { Empty, Failed, Scroll, Skeleton, Tag, Time, Turn } from "../parts/basics";

const TONES: Record<string, string> = { sent: "ok", failed: "bad", pending: "warn", sending: "accent" };

export function Deliveries() {
  const [status, setStatus] = useState("");
  const [channel, setChannel] = useState("");
  const [cursor, turn] = useState<string | null>(null);
  const path = query("/api/notification/deliveries", { status, channel, cursor, limit: 100 });
  const loaded = useLoad(path, (signal) => ask<Page<Delivery>>(path, { signal }));
  useEvery(3000, loaded.reload);
  const items = loaded.value?.items;
  return (
    <>
      <div class="row wrap">
        <select
          class="input"
          aria-label="Status"
          value={status}
          onChange={(event) => {
            turn(null);
            setStatus(event.currentTarget.value);
          }}
        >
          <option value="">Any status</option>
          {Object.keys(TONES).map((name) => (
            <option key={name}>{name}</option>
          ))}
        </select>
        <select
          class="input"
          aria-label="Channel"
          value={channel}
          onChange={(event) => {
            turn(null);
            setChannel(event.currentTarget.value);
          }}
        >
          <option value="">Any channel</option>
          {["inbox", "email", "webhook"].map((name) => (
            <option key={name}>{name}</option>
          ))}
        </select>
        {!may("operator") && (
          <span class="quiet small">
            Only your own deliveries are shown. Operators see those of all users.
          </span>
        )}
      </div>
      {loaded.problem && <Failed problem={loaded.problem} retry={loaded.reload} />}
      {!items && !loaded.problem && <Skeleton />}
      {items?.length === 0 && (
        <Empty title="No deliveries found" icon={<Send size={28} strokeWidth={1.5} />}>
          <p>Every notification is listed here by channel, with its attempts and the response.</p>
        </Empty>
      )}
      {items && items.length > 0 && (
        <Scroll label="Deliveries" panel>
          <table class="table">
            <thead>
              <tr>
                <th>To</th>
                <th>Notification</th>
                <th>Channel</th>
                <th>Status</th>
                <th class="right">Attempts</th>
                <th>Time</th>
                <th>Causes</th>
              </tr>
            </thead>
            <tbody>
              {items.map((one) => (
                <tr key={one.id}>
                  <td>{one.user_id}</td>
                  <td>{words(String(one.data.kind ?? one.kind))}</td>
                  <td>{one.channel}</td>
                  <td>
                    <Tag tone={TONES[one.status]}>{one.status}</Tag>
                    {one.answer && <div class="small quiet">{one.answer}</div>}
                  </td>
                  <td class="right number">{one.attempts}</td>
                  <td class="quiet">
                    <Time at={one.created_at} />
                  </td>
                  <td>
                    {one.correlation_id && (
                      <Link href={`/causes/correlation/${encodeURIComponent(one.correlation_id)}`}>
                        View causes
                      </Link>
                    )}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
      <Turn cursor={cursor} next={loaded.value?.next} turn={turn} />
    </>
  );
}
