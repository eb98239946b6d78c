"""A person's approval of a plan: bound to its digest, by somebody else than the one who triggered the run."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.standard.exceptions import HITLRejectException
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from mongo_ops.orchestration.evidence import APPROVED, REFUSED, record_answer
from mongo_ops.orchestration.targets import open_target
from mongo_ops.settings import load_environment

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mongo_ops.settings import Environment


SUBJECT = "Approve this plan for {{ params.environment }}?"


class PlanApprovalOperator(ApprovalOperator):
    """Ask a person to approve the plan where the environment is protected; no answer in time means refused.

    The task that is asked about hands on ``digest``, ``markdown`` and ``empty`` (whether there is nothing to do), whatever it is a
    plan of.

    Args:
        about: the task that is asked about.
        always: ask in every environment; where it is not protected, whoever triggered the run may answer too.
        subject: what is asked.
        **kwargs: as every operator takes them.
    """

    def __init__(self, *, about: str = "plan", always: bool = False, subject: str = SUBJECT, **kwargs: Any) -> None:
        super().__init__(
            subject=subject,
            body=f"{{{{ (ti.xcom_pull(task_ids='{about}') or {{}}).get('markdown', '') }}}}",
            defaults=self.REJECT,
            fail_on_reject=True,
            retries=0,
            **kwargs,
        )
        self.about = about
        self.always = always

    def execute(self, context: Context) -> Any:
        """Wait for an answer where one is needed."""
        environment = load_environment(context["params"]["environment"])
        if context["params"]["plan_only"]:
            raise AirflowSkipException("Plan only: nothing to approve.")
        plan = context["ti"].xcom_pull(task_ids=self.about)
        if plan is None:
            raise AirflowSkipException("There is nothing to approve.")
        if not (environment.protected or self.always) or plan["empty"]:
            return {"needed": False, "digest": plan["digest"]}
        asker = context["dag_run"].triggering_user_name
        if environment.protected and environment.approvers:
            others = [user for user in environment.approvers if user != asker]
            if not others:
                raise AirflowFailException(
                    f"No approver of {environment.name} is left besides the one who triggered the run."
                )
            self.assigned_users = [{"id": user, "name": user} for user in others]
        self.response_timeout = timedelta(minutes=environment.approval_minutes)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Accept the answer if it is another person's; write it into the audit log.

        Returns:
            {needed, digest}: the digest that was approved. No name, since XCom is not the place for one.
        """
        digest = str(context["ti"].xcom_pull(task_ids=self.about)["digest"])
        environment = load_environment(context["params"]["environment"])
        person = (event.get("responded_by_user") or {}).get("name") or "nobody"
        asker = context["dag_run"].triggering_user_name
        try:
            super().execute_complete(context, event)
        except HITLRejectException:
            self._record(context, environment, digest, person, REFUSED)
            self.refuse("nobody approved it in time" if person == "nobody" else "it was rejected")
        if person == "nobody" or (person == asker and environment.protected):
            self._record(context, environment, digest, person, REFUSED)
            raise AirflowFailException(
                "The plan was approved by the one who triggered the run, which does not count. Trigger it again and ask somebody else."
            )
        self._record(context, environment, digest, person, APPROVED)
        return {"needed": True, "digest": digest}

    def refuse(self, why: str) -> NoReturn:
        """End the task after a refusal."""
        raise AirflowFailException(f"The plan was refused: {why}.") from None

    def _record(self, context: Context, environment: Environment, digest: str, person: str, result: str) -> None:
        with open_target(environment.name) as target:
            record_answer(context, target, digest, person, result)
