// SPDX-License-Identifier: Apache-2.0

package main

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
)

// schemas are a new cluster's; with strict, the user "agent" has one request at a time and no queue.
func schemas(strict bool) []runtime.Object {
	var all []runtime.Object
	for _, each := range bootstrap.MandatoryPriorityLevelConfigurations {
		all = append(all, each.DeepCopy())
	}
	for _, each := range bootstrap.MandatoryFlowSchemas {
		all = append(all, each.DeepCopy())
	}
	for _, each := range bootstrap.SuggestedPriorityLevelConfigurations {
		all = append(all, each.DeepCopy())
	}
	for _, each := range bootstrap.SuggestedFlowSchemas {
		all = append(all, each.DeepCopy())
	}
	if strict {
		one := int32(1)
		zero := int32(0)
		level := &flowcontrolv1.PriorityLevelConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: "strict"},
			Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
				Type: flowcontrolv1.PriorityLevelEnablementLimited,
				Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
					NominalConcurrencyShares: &one, LendablePercent: &zero, BorrowingLimitPercent: &zero,
					LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
				},
			},
		}
		flow := &flowcontrolv1.FlowSchema{
			ObjectMeta: metav1.ObjectMeta{Name: "strict"},
			Spec: flowcontrolv1.FlowSchemaSpec{
				PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "strict"},
				MatchingPrecedence:         1,
				Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
					Subjects: []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser,
						User: &flowcontrolv1.UserSubject{Name: "agent"}}},
					ResourceRules: []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"},
						Resources: []string{"*"}, ClusterScope: true, Namespaces: []string{"*"}}},
				}},
			},
		}
		all = append(all, level, flow)
	}
	return all
}
